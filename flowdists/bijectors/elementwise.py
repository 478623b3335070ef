"""Elementwise maps with their own parameters."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints

from flowdists import _check
from flowdists._constraints import lift_constraint
from flowdists._events import sum_last
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.transformers import RationalQuadratic, Transformer
from flowdists.transformers.base import check_transformer, run_within_bounds


class Affine(Bijector):
    """``y = loc + scale * x``, elementwise, with ``scale > 0``.

    The leaves are ``loc`` and ``log_scale``.

    Args:
      loc: shift.
      scale: positive factor. The event shape is that of ``loc`` and ``scale`` broadcast together.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if ``scale`` is known and not positive.

    >>> import jax.numpy as jnp
    >>> layer = Affine(jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0]))
    >>> print(layer(jnp.ones(2)))
    [2. 5.]
    """

    loc: Array
    log_scale: Array
    event_shape: Shape = static()

    def __init__(self, loc: Array, scale: Array) -> None:
        loc = _check.float_array("Affine", "loc", loc)
        scale = _check.float_array("Affine", "scale", scale)
        if not isinstance(scale, jax.core.Tracer) and not bool((scale > 0).all()):
            raise ValueError(f"Affine: `scale` must be positive, got a minimum of {scale.min()}")
        self.event_shape = jnp.broadcast_shapes(loc.shape, scale.shape)
        self.loc = jnp.broadcast_to(loc, self.event_shape)
        self.log_scale = jnp.broadcast_to(jnp.log(scale), self.event_shape)

    @property
    def is_constant_jacobian(self) -> bool:
        return True

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self.loc + x * jnp.exp(self.log_scale), self.log_scale.sum()

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return (y - self.loc) * jnp.exp(-self.log_scale), -self.log_scale.sum()


class Elementwise(Bijector):
    """A transformer with free parameters for every element of an event.

    Args:
      event_shape: shape of one event; ``()`` for a scalar.
      transformer: the family of scalar maps.

    Raises:
      TypeError: if ``transformer`` is not a transformer.
      ValueError: for an invalid shape.

    >>> layer = Elementwise((2, 3), transformer=RationalQuadratic(num_bins=4))
    >>> layer.params.shape
    (11, 2, 3)
    """

    params: Array
    transformer: Transformer = static()
    event_shape: Shape = static()

    def __init__(self, event_shape: Sequence[int] = (), *, transformer: Transformer) -> None:
        self.transformer = check_transformer(type(self).__name__, transformer)
        self.event_shape = _check.shape(type(self).__name__, "event_shape", event_shape)
        self.params = jnp.zeros((transformer.num_params, *self.event_shape))

    @property
    def domain(self) -> constraints.Constraint:
        return lift_constraint(self.transformer.domain, self.event_ndims_in)

    @property
    def codomain(self) -> constraints.Constraint:
        return lift_constraint(self.transformer.codomain, self.event_ndims_in)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._apply("forward", x)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._apply("inverse", y)

    def _apply(self, direction: Direction, value: Array) -> tuple[Array, Array]:
        batch_ndims = value.ndim - self.event_ndims_in
        params = jnp.expand_dims(self.params, tuple(range(1, 1 + batch_ndims)))
        params = jnp.broadcast_to(params, (self.params.shape[0], *value.shape))
        run = getattr(self.transformer, direction)
        value, log_slope = run_within_bounds(
            self.transformer, direction, value, lambda inside: run(inside, params)
        )
        return value, sum_last(log_slope, self.event_ndims_in)


class RationalQuadraticSpline(Elementwise):
    """A monotone rational-quadratic spline for every element.

    From Durkan et al. 2019 (https://arxiv.org/abs/1906.04032). It starts as the identity. With
    "linear" tails it stays the identity outside ``[-bound, bound]``, and has unit slope at the
    bounds. With "circular" tails it is a map of the circle of circumference ``2 * bound`` (Rezende
    et al. 2020, https://arxiv.org/abs/2002.02428).

    Args:
      event_shape: shape of one event; ``()`` for a scalar.
      num_bins: bins of each spline, at least 2.
      bound: half the width of the interval on which the spline acts.
      tails: "linear" or "circular".
      min_width: minimum width of a bin, as a fraction of the interval.
      min_height: minimum height of a bin, as a fraction of the interval.
      min_slope: minimum slope at a knot.

    Raises:
      ValueError: for an invalid shape, or an option out of range.

    >>> import jax.numpy as jnp
    >>> spline = RationalQuadraticSpline((2,), num_bins=6)
    >>> print(spline(jnp.array([0.5, 10.0])))
    [ 0.5 10. ]
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (),
        *,
        num_bins: int = 8,
        bound: float = 3.0,
        tails: str = "linear",
        min_width: float = 1e-3,
        min_height: float = 1e-3,
        min_slope: float = 1e-3,
    ) -> None:
        spline = RationalQuadratic(num_bins, bound, tails, min_width, min_height, min_slope)
        super().__init__(event_shape, transformer=spline)
