"""From unbounded space to pixels on a bounded scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints

from flowdists import _check
from flowdists._constraints import lift_constraint, only_inside
from flowdists._events import sum_last
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Shape


class PixelLogit(Bijector):
    r"""Pixels from logits, elementwise. As the last layer of a flow it is RealNVP's preprocessing.

    Its inverse takes pixels to

    .. math:: z = \operatorname{logit}(\alpha + (1 - 2 \alpha) p), \qquad
        p = (x - low) / (high - low).

    Dinh, Sohl-Dickstein & Bengio 2017 (https://arxiv.org/abs/1605.08803) have
    :math:`\alpha + (1 - \alpha) p`. The form here treats black and white alike, and is finite at
    both. The support of a flow that ends in this layer is ``[low, high]``, widened at either end
    by the fraction ``alpha / (1 - 2 * alpha)`` of its width. Outside of it the density is zero: the
    log-determinant of the inverse is ``-inf``, and the elements outside become 0. The layer has no
    parameters.

    Args:
      event_shape: shape of one event; ``()`` for a scalar.
      alpha: the distance that logits keep from the ends, in [0, 0.5).
      low: the lower end of the scale of pixels.
      high: the upper end.

    Raises:
      ValueError: for a bad shape, ``alpha`` out of range, or ends that are not finite and in order.

    >>> from flowdists import PixelLogit
    >>> layer = PixelLogit((3,))
    >>> print(layer.inverse(jnp.array([-0.5, 0.0, 0.5])))
    [-2.944439  0.        2.944439]
    """

    event_shape: Shape = static()
    alpha: float = static()
    low: float = static()
    high: float = static()

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        alpha: float = 0.05,
        low: float = -0.5,
        high: float = 0.5,
    ) -> None:
        self.event_shape = _check.shape("PixelLogit", "event_shape", event_shape)
        self.alpha, self.low, self.high = float(alpha), float(low), float(high)
        if not 0 <= self.alpha < 0.5:
            raise ValueError(f"PixelLogit: `alpha` must be in [0, 0.5), got {alpha!r}")
        if not (self.low < self.high and math.isfinite(self.high - self.low)):
            raise ValueError(
                f"PixelLogit: `low` must be below `high`, both finite, got {low!r} and {high!r}"
            )

    @property
    def codomain(self) -> constraints.Constraint:
        return lift_constraint(self._interval, len(self.event_shape))

    @property
    def _interval(self) -> constraints.Constraint:
        margin = self.alpha * self._width
        return constraints.interval(self.low - margin, self.high + margin)

    @property
    def _width(self) -> float:
        """The width of the codomain."""
        return (self.high - self.low) / (1 - 2 * self.alpha)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        # Without the bounds, rounding would lead to the ends of the codomain, and beyond.
        eps = float(jnp.finfo(x.dtype).eps)
        fraction = jnp.clip(jax.nn.sigmoid(x), eps, 1 - eps)
        log_slope = jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x) + math.log(self._width)
        return self.low + self._width * (fraction - self.alpha), self._sum(log_slope)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        below, above = self._fractions(y)
        inside = (below > 0) & (above > 0)
        x, log_slope = only_inside(self._interval, y, inside, self._logit)
        return x, self._sum(log_slope)

    def _fractions(self, y: Array) -> tuple[Array, Array]:
        """The distances of ``y`` from both ends of the codomain, as fractions of its width."""
        below = self.alpha + (y - self.low) / self._width
        return below, self.alpha + (self.high - y) / self._width

    def _logit(self, y: Array) -> tuple[Array, Array]:
        log_below, log_above = map(jnp.log, self._fractions(y))
        return log_below - log_above, -log_below - log_above - math.log(self._width)

    def _sum(self, log_slope: Array) -> Array:
        return sum_last(log_slope, len(self.event_shape))
