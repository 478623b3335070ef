"""Elementwise maps whose parameters come from the context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from numpyro.distributions import constraints

from flowdists import _check
from flowdists._constraints import lift_constraint
from flowdists._events import sum_last
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.networks.base import Activation, Linear
from flowdists.networks.conditioner import as_conditioner, flatten_context
from flowdists.networks.mlp import MLP
from flowdists.transformers import Transformer
from flowdists.transformers.base import check_transformer, run_within_bounds


class ContextElementwise(Bijector):
    """A transformer on every element of an event, with parameters from a network of the context.

    With a shift and scale as transformer, it gives a flow a location and a scale that depend on the
    context. Alone, on a standard normal base, it makes a Gaussian with independent elements. A new
    layer is the identity, unless ``conditioner`` or ``output_scale`` changes that.

    Args:
      key: PRNG key for the network's parameters.
      event_shape: shape of one event.
      context_shape: shape of one context.
      transformer: the family of scalar maps.
      conditioner: None for an MLP; or any callable pytree that maps the context, as a vector, to
        ``transformer.num_params`` numbers for each element, in the order
        ``(num_params, *event_shape)``.
      hidden_sizes: widths of the default network's hidden layers; ``()`` for a linear map.
      activation: of the default network: a function, or the name of one in :mod:`jax.nn`.
      output_scale: factor of the default network's last weights at the start; 0 for the identity.

    Raises:
      TypeError: for an invalid key, or a conditioner that is not callable.
      ValueError: for an invalid shape, or a conditioner whose output does not fit.

    >>> from flowdists.transformers import ShiftScale
    >>> key, context = jax.random.key(0), jnp.ones((7, 2))
    >>> layer = ContextElementwise(key, (4,), (2,), transformer=ShiftScale(), hidden_sizes=())
    >>> y, log_det = layer.forward_and_log_det(jnp.zeros((7, 4)), context)
    >>> y.shape, log_det.shape
    ((7, 4), (7,))
    """

    conditioner: Any
    transformer: Transformer = static()
    event_shape: Shape = static()
    context_shape: Shape = static()

    def __init__(
        self,
        key: Array,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        transformer: Transformer,
        conditioner: Any = None,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: Activation = "relu",
        output_scale: float = 0.0,
    ) -> None:
        caller = type(self).__name__
        key = _check.key(caller, key)
        self.transformer = check_transformer(caller, transformer)
        self.event_shape = _check.shape(caller, "event_shape", event_shape)
        self.context_shape = _check.shape(caller, "context_shape", context_shape)
        in_size = math.prod(self.context_shape)
        out_size = transformer.num_params * math.prod(self.event_shape)
        if conditioner is not None:
            self.conditioner = as_conditioner(caller, conditioner, (in_size,), out_size, 0)
        elif hidden_sizes:
            self.conditioner = MLP(
                key,
                in_size,
                out_size,
                hidden_sizes=hidden_sizes,
                activation=activation,
                output_scale=output_scale,
            )
        else:
            self.conditioner = Linear(key, in_size, out_size, output_scale)

    @property
    def domain(self) -> constraints.Constraint:
        return lift_constraint(self.transformer.domain, self.event_ndims_in)

    @property
    def codomain(self) -> constraints.Constraint:
        return lift_constraint(self.transformer.codomain, self.event_ndims_in)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._apply("forward", x, context)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._apply("inverse", y, context)

    def _apply(
        self, direction: Direction, value: Array, context: Array | None
    ) -> tuple[Array, Array]:
        flat = self.conditioner(flatten_context(context, self.context_shape))
        params = flat.reshape(*flat.shape[:-1], self.transformer.num_params, *self.event_shape)
        params = jnp.moveaxis(params, flat.ndim - 1, 0)
        # Contexts may have fewer batch axes than values, which have the joint batch shape.
        missing = value.ndim - (params.ndim - 1)
        params = jnp.expand_dims(params, tuple(range(1, 1 + missing)))
        run = getattr(self.transformer, direction)
        value, log_slope = run_within_bounds(
            self.transformer, direction, value, lambda inside: run(inside, params)
        )
        return value, sum_last(log_slope, self.event_ndims_in)
