"""Autoregressive layers, whose sampling direction costs about as much as the density direction."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from flowdists import _check
from flowdists._constraints import lift_constraint
from flowdists._events import batch_of, flatten_event
from flowdists._pytree import static
from flowdists.bijectors.autoregressive.implicit import generate, normalize
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.networks.base import Activation
from flowdists.networks.conditioner import context_size, flatten_context
from flowdists.networks.made import MADE
from flowdists.transformers import ShiftScale, Transformer
from flowdists.transformers.base import check_transformer, run_within_bounds


class MaskedAutoregressive(Bijector):
    r"""A masked autoregressive layer: a transformer whose parameters a MADE computes.

    From Papamakarios, Pavlakou and Murray 2017 (https://arxiv.org/abs/1705.07057). With a monotone
    scalar map ``T`` whose parameters come from the network,

    * ``inverse``, the density direction, is :math:`z_i = T^{-1}(x_i; \theta(x_{<i}, c))`, all
      elements at once: one evaluation of the network;
    * ``forward``, the sampling direction, is :math:`x_i = T(z_i; \theta(x_{<i}, c))`, one element
      after another. Each step computes only the units of the network that become computable, so
      all steps together cost about one evaluation too, not one for each element.

    The inverse, ``layer.inv``, is the inverse autoregressive layer of Kingma et al. 2016
    (https://arxiv.org/abs/1606.04934).

    Gradients of samples come from the implicit function theorem. They are exact, of any order, in
    reverse and in forward mode, and the sequential steps store nothing for them.

    Args:
      key: PRNG key for the network's parameters.
      event_shape: shape of one event, any rank.
      transformer: the family of scalar maps; a new layer is the identity.
      order: the order in which elements are generated: a permutation of ``range(size)`` for the
        flattened event, "ascending" or "descending".
      hidden_sizes: widths of the network's hidden layers (or of its residual blocks). If a layer
        has fewer units than there are elements, some dependencies are lost, see :class:`MADE`.
      residual: whether the network is a pre-activation residual one.
      context_shape: shape of one context, or None.
      activation: of the network: a function, or the name of one in :mod:`jax.nn`.

    Raises:
      TypeError: for an invalid key, or a transformer that is not a transformer.
      ValueError: for an invalid shape, or an ``order`` that is not a permutation.

    >>> import jax
    >>> layer = MaskedAutoregressive(jax.random.key(0), (4,), order="descending")
    >>> x, log_det = layer.forward_and_log_det(jax.numpy.ones((7, 4)))
    >>> x.shape, log_det.shape
    ((7, 4), (7,))
    """

    network: MADE
    transformer: Transformer = static()
    event_shape: Shape = static()
    context_shape: Shape | None = static(default=None)

    def __init__(
        self,
        key: Array,
        event_shape: Sequence[int],
        *,
        transformer: Transformer = ShiftScale(),  # noqa: B008 (frozen and without arrays)
        order: Sequence[int] | str = "ascending",
        hidden_sizes: Sequence[int] = (128, 128),
        residual: bool = False,
        context_shape: Sequence[int] | None = None,
        activation: Activation = "relu",
    ) -> None:
        caller = type(self).__name__
        key = _check.key(caller, key)
        self.event_shape = _check.shape(caller, "event_shape", event_shape)
        self.context_shape = _check.optional_shape(caller, "context_shape", context_shape)
        self.transformer = check_transformer(caller, transformer)
        self.network = MADE(
            key,
            math.prod(self.event_shape),
            transformer.num_params,
            hidden_sizes=hidden_sizes,
            order=order,
            residual=residual,
            context_size=context_size(self.context_shape),
            activation=activation,
        )

    @property
    def cheap_direction(self) -> Direction:
        return "inverse"

    @property
    def domain(self) -> constraints.Constraint:
        return lift_constraint(self.transformer.domain, self.event_ndims_in)

    @property
    def codomain(self) -> constraints.Constraint:
        return lift_constraint(self.transformer.codomain, self.event_ndims_out)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        run = functools.partial(self._apply, generate, context=context)
        return run_within_bounds(self.transformer, "forward", x, run, self.event_ndims_in)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        run = functools.partial(self._apply, normalize, context=context)
        return run_within_bounds(self.transformer, "inverse", y, run, self.event_ndims_in)

    def _apply(
        self, function: Callable[..., Any], value: Array, context: Array | None
    ) -> tuple[Array, Array]:
        """Run with features first, in the order of generation: each step's rows are contiguous."""
        batch = batch_of(value, self.event_shape)
        context = flatten_context(context, self.context_shape)
        layers = self.network.prepare(context, len(batch))
        order = np.array(self.network.order)
        # The scalar maps compute in at least float32, and a loop cannot change its dtype.
        dtype = jnp.result_type(value, *jax.tree.leaves(layers), jnp.float32)
        ordered = flatten_event(value, self.event_shape)
        ordered = jnp.moveaxis(ordered, -1, 0)[order].astype(dtype)
        ordered, log_det = function(self.network.architecture, self.transformer, layers, ordered)
        result = jnp.moveaxis(ordered[np.argsort(order)], 0, -1)
        return result.reshape(*batch, *self.event_shape), log_det
