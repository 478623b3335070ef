"""Coupling layers: part of an event is changed by a map whose parameters come from the rest."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from numpyro.distributions import constraints

from flowdists import _check
from flowdists._constraints import lift_constraint, same
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.bijectors.partition import Mask, make_partition
from flowdists.networks.base import Activation
from flowdists.networks.conditioner import as_conditioner, context_size, flatten_context
from flowdists.networks.mlp import MLP, ResidualMLP
from flowdists.transformers import RationalQuadratic, ShiftScale, Transformer
from flowdists.transformers.base import check_transformer


class Coupling(Bijector):
    r"""A coupling layer, made of a mask, a conditioner and a transformer.

    From Dinh, Sohl-Dickstein and Bengio 2017 (https://arxiv.org/abs/1605.08803). The mask splits an
    event into ``(a, b)``. ``forward`` computes ``a' = a`` and
    ``b' = T(b; conditioner(a, context))``, where the transformer ``T`` is monotone in every
    element. The log-determinant is the sum of the log-slopes of ``T``. Both directions cost one
    evaluation of the conditioner.

    Args:
      key: PRNG key for the conditioner's parameters.
      event_shape: shape of one event, any rank, at least 2 elements.
      transformer: the family of scalar maps, of a set onto itself; a new layer is the identity.
      mask: "alternating" or "checkerboard", "half", "channel", or an array of 0 and 1 of the event
        shape where 1 marks what is kept.
      flip: exchange what is kept and what is changed.
      conditioner: None for an MLP, or any callable pytree (an Equinox module, for example) that
        maps a vector, the kept elements followed by the context, to ``transformer.num_params``
        numbers for each changed element, in the order ``(num_params, changed)``. It is used as it
        is: the layer starts as the identity only if the output starts at zero.
      context_shape: shape of one context, or None.
      hidden_sizes: widths of the default conditioner's hidden layers (or of its residual blocks);
        (128, 128) unless given.
      residual: whether the default conditioner is a pre-activation residual network.
      activation: of the default conditioner: a function, or the name of one in :mod:`jax.nn`;
        "relu" unless given.

    Raises:
      TypeError: for an invalid key, or a conditioner that is not callable.
      ValueError: for an event of fewer than 2 elements, a mask of the wrong shape, a transformer
        whose codomain is not its domain (kept and changed elements share one set), a conditioner
        whose output does not fit, or one given together with options of the default one.

    >>> import jax
    >>> layer = Coupling(jax.random.key(0), (4,), transformer=RationalQuadratic(num_bins=5))
    >>> y, log_det = layer.forward_and_log_det(jax.numpy.ones((7, 4)))
    >>> y.shape, log_det.shape
    ((7, 4), (7,))
    """

    conditioner: Any
    transformer: Transformer = static()
    partition: Any = static()
    context_shape: Shape | None = static(default=None)

    def __init__(
        self,
        key: Array,
        event_shape: Sequence[int],
        *,
        transformer: Transformer,
        mask: Mask = "half",
        flip: bool = False,
        conditioner: Any = None,
        context_shape: Sequence[int] | None = None,
        hidden_sizes: Sequence[int] | None = None,
        residual: bool = False,
        activation: Activation | None = None,
    ) -> None:
        caller = type(self).__name__
        key = _check.key(caller, key)
        shape = _check.shape(caller, "event_shape", event_shape)
        self.transformer = check_onto_itself(caller, transformer)
        self.partition = make_partition(caller, shape, mask, flip)
        self.context_shape = _check.optional_shape(caller, "context_shape", context_shape)
        in_size, changed = len(self.partition.kept), len(self.partition.changed)
        out_size = transformer.num_params * changed
        num_context = context_size(self.context_shape)
        if conditioner is None:
            network = ResidualMLP if residual else MLP
            conditioner = network(
                key,
                in_size,
                out_size,
                hidden_sizes=(128, 128) if hidden_sizes is None else hidden_sizes,
                context_size=num_context,
                activation="relu" if activation is None else activation,
            )
        else:
            no_options(caller, hidden_sizes=hidden_sizes, residual=residual, activation=activation)
        self.conditioner = as_conditioner(caller, conditioner, (in_size,), out_size, num_context)

    @property
    def event_shape(self) -> Shape:
        return self.partition.event_shape

    @property
    def domain(self) -> constraints.Constraint:
        return lift_constraint(self.transformer.domain, self.event_ndims_in)

    @property
    def codomain(self) -> constraints.Constraint:
        return self.domain

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._couple("forward", x, context)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._couple("inverse", y, context)

    def _couple(
        self, direction: Direction, value: Array, context: Array | None
    ) -> tuple[Array, Array]:
        kept, changed = self.partition.split(value)
        flat = self.conditioner(kept, flatten_context(context, self.context_shape))
        stacked = flat.reshape(*flat.shape[:-1], self.transformer.num_params, changed.shape[-1])
        params = jnp.moveaxis(stacked, -2, 0)
        changed, log_slope = getattr(self.transformer, direction)(changed, params)
        return self.partition.merge(kept, changed), self.partition.sum_changed(log_slope)

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        """Initialize the conditioner, if it has a method ``data_init``."""
        layer = copy.copy(self)
        if hasattr(self.conditioner, "data_init"):
            kept, _ = self.partition.split(jnp.asarray(value))
            flat = flatten_context(context, self.context_shape)
            layer.conditioner = self.conditioner.data_init(kept, flat)
        return layer, getattr(layer, f"{direction}_and_log_det")(value, context)[0]


def check_onto_itself(caller: str, transformer: Any) -> Transformer:
    """``transformer``, if it maps its domain onto itself, as a coupling needs.

    Raises:
      TypeError: if it is not a transformer.
      ValueError: if its codomain is another set.
    """
    transformer = check_transformer(caller, transformer)
    if not same(transformer.domain, transformer.codomain):
        raise ValueError(
            f"{caller}: `transformer` must map its domain onto itself, because kept and changed "
            f"elements share one set, got {transformer} from {transformer.domain} onto "
            f"{transformer.codomain}"
        )
    return transformer


def no_options(caller: str, **options: Any) -> None:
    """Raise if options of the default conditioner were given together with a ``conditioner``."""
    unused = [name for name, value in options.items() if value not in (None, False)]
    if unused:
        raise ValueError(
            f"{caller}: `{unused[0]}` is an option of the default conditioner, but `conditioner` "
            "was given: set it there"
        )


class AffineCoupling(Coupling):
    """The affine coupling layer of RealNVP: ``b' = b * exp(s(a)) + t(a)``.

    From Dinh, Sohl-Dickstein and Bengio 2017 (https://arxiv.org/abs/1605.08803).

    Args:
      key: PRNG key.
      event_shape: shape of one event.
      scale: how the log-scale is bounded: "tanh" (softly, the default), "sigmoid" (Glow's), "exp"
        (not at all).
      **options: as in :class:`Coupling`, except ``transformer``.

    >>> layer = AffineCoupling(jax.random.key(0), (3, 4), mask="checkerboard")
    >>> layer.forward_and_log_det(jnp.ones((7, 3, 4)))[1].shape
    (7,)
    """

    def __init__(
        self, key: Array, event_shape: Sequence[int], *, scale: str = "tanh", **options: Any
    ) -> None:
        super().__init__(key, event_shape, transformer=ShiftScale(scale=scale), **options)


class SplineCoupling(Coupling):
    """The rational-quadratic spline coupling layer.

    From Durkan, Bekasov, Murray and Papamakarios 2019 (https://arxiv.org/abs/1906.04032).

    Args:
      key: PRNG key.
      event_shape: shape of one event.
      num_bins: bins of each spline, at least 2.
      bound: the spline acts on ``[-bound, bound]``.
      tails: "linear" (the identity outside the bounds) or "circular".
      min_width: minimum width of a bin, as a fraction of the interval.
      min_height: minimum height of a bin, as a fraction of the interval.
      min_slope: minimum slope at a knot.
      **options: as in :class:`Coupling`, except ``transformer``.

    >>> layer = SplineCoupling(jax.random.key(0), (4,), num_bins=10, bound=5.0)
    >>> layer.event_shape
    (4,)
    """

    def __init__(
        self,
        key: Array,
        event_shape: Sequence[int],
        *,
        num_bins: int = 8,
        bound: float = 3.0,
        tails: str = "linear",
        min_width: float = 1e-3,
        min_height: float = 1e-3,
        min_slope: float = 1e-3,
        **options: Any,
    ) -> None:
        spline = RationalQuadratic(num_bins, bound, tails, min_width, min_height, min_slope)
        super().__init__(key, event_shape, transformer=spline, **options)
