"""Blocks of pixels to channels."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from flowdists import _check
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.images.check import image_shape


class Squeeze(Bijector):
    """Blocks of ``factor × factor`` pixels become channels.

    From Dinh et al. 2017 (https://arxiv.org/abs/1605.08803). ``forward`` takes ``(H, W, C)`` to
    ``(H/factor, W/factor, factor² C)``. A flow squeezes on the way to the latents, so that it
    contains the inverse of this layer. The log-determinant is 0. New channels are ordered by the
    row in the block, then by the column, then by the old channel.

    Args:
      event_shape: ``(H, W, C)``.
      factor: height and width of the blocks.

    Raises:
      ValueError: if the event is not an image, or the factor does not divide height and width.

    >>> Squeeze((8, 6, 3))(jnp.ones((5, 8, 6, 3))).shape
    (5, 4, 3, 12)
    """

    event_shape: Shape = static()
    factor: int = static()

    def __init__(self, event_shape: Sequence[int], *, factor: int = 2) -> None:
        self.event_shape = image_shape("Squeeze", event_shape)
        self.factor = _check.positive_int("Squeeze", "factor", factor)
        height, width, _ = self.event_shape
        if height % factor or width % factor:
            raise ValueError(
                f"Squeeze: `factor` {factor} must divide height and width, got {height} and {width}"
            )

    @property
    def event_shape_out(self) -> Shape:
        height, width, channels = self.event_shape
        return height // self.factor, width // self.factor, channels * self.factor**2

    @property
    def is_constant_jacobian(self) -> bool:
        return True

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        height, width, _ = self.event_shape_out
        split = (height, self.factor, width, self.factor, self.event_shape[-1])
        return _exchange(x, split, self.event_shape_out), jnp.zeros((), x.dtype)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        height, width, _ = self.event_shape_out
        split = (height, width, self.factor, self.factor, self.event_shape[-1])
        return _exchange(y, split, self.event_shape), jnp.zeros((), y.dtype)


def _exchange(value: Array, split: Shape, event_shape: Shape) -> Array:
    """Split events into five axes, exchange the middle two, and give them ``event_shape``."""
    batch = value.shape[:-3]
    return jnp.swapaxes(value.reshape(*batch, *split), -4, -3).reshape(*batch, *event_shape)
