"""Pixels of a bounded scale, from unbounded space."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints

from flowdists import _check
from flowdists._pytree import static
from flowdists.bijectors._events import sum_last
from flowdists.bijectors.base import Array, Bijector, Shape, lift_constraint


class PixelLogit(Bijector):
    r"""Pixels from logits, elementwise: as the last layer of a flow, RealNVP's preprocessing.

    Its inverse takes pixels to

    .. math:: z = \operatorname{logit}(\alpha + (1 - 2 \alpha) p), \qquad
        p = (x - low) / (high - low).

    Dinh, Sohl-Dickstein & Bengio (2017) have :math:`\alpha + (1 - \alpha) p`; this form treats
    black and white alike, and is finite at both. The image of unbounded space is an interval wider
    than ``[low, high]``, by ``alpha / (1 - 2 * alpha)`` of it at either end, and the support of a
    flow that ends here. Beyond it the density is zero: there the inverse's log-determinant is
    ``-inf``, and the elements outside become 0. No leaves.

    Args:
      event_shape: shape of one event; ``()`` for a scalar.
      alpha: how far logits stay away from the ends, in [0, 0.5).
      low: the lower end of the scale of pixels.
      high: its upper end.

    Raises:
      ValueError: for a bad shape, ``alpha`` out of range, or ends that are not finite and in order.

    >>> from flowdists.bijectors.pixel_logit import PixelLogit
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
        margin = self.alpha * self._width
        interval = constraints.interval(self.low - margin, self.high + margin)
        return lift_constraint(interval, len(self.event_shape))

    @property
    def _width(self) -> float:
        """Of the codomain."""
        return (self.high - self.low) / (1 - 2 * self.alpha)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        # Rounding would lead to the ends of the codomain, and beyond.
        eps = float(jnp.finfo(x.dtype).eps)
        part = jnp.clip(jax.nn.sigmoid(x), eps, 1 - eps)
        log_slope = jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x) + math.log(self._width)
        return self.low + self._width * (part - self.alpha), self._sum(log_slope)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        below = self.alpha + (y - self.low) / self._width
        above = self.alpha + (self.high - y) / self._width  # 1 - below, without cancellation
        outside = (below <= 0) | (above <= 0)  # NaN is not, and stays what it is
        log_below = jnp.log(jnp.where(outside, 0.5, below))
        log_above = jnp.log(jnp.where(outside, 0.5, above))
        log_slope = -log_below - log_above - math.log(self._width)
        return log_below - log_above, self._sum(jnp.where(outside, -jnp.inf, log_slope))

    def _sum(self, log_slope: Array) -> Array:
        return sum_last(log_slope, len(self.event_shape))
