"""Masks of images: what a convolutional coupling layer keeps, and what it changes.

Each has the interface of :class:`~flowdists.bijectors.partition.Partition`. Its parts are images,
so that a convolution can see the kept one.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.bijectors.base import Array, Shape

MASKS = ("channel", "checkerboard")


@dataclasses.dataclass(frozen=True)
class ChannelPartition:
    """The second half of the channels changes, or the first if ``flip`` is true."""

    event_shape: Shape
    flip: bool = False

    @property
    def num_channels(self) -> tuple[int, int]:
        """The numbers of channels of the kept and of the changed part."""
        first = self.event_shape[-1] // 2
        second = self.event_shape[-1] - first
        return (second, first) if self.flip else (first, second)

    def split(self, value: Array) -> tuple[Array, Array]:
        """Split images into the kept and the changed part."""
        first, second = jnp.split(value, [self.event_shape[-1] // 2], axis=-1)
        return (second, first) if self.flip else (first, second)

    def merge(self, kept: Array, changed: Array) -> Array:
        """The inverse of :meth:`split`."""
        halves = (changed, kept) if self.flip else (kept, changed)
        return jnp.concatenate(halves, axis=-1)

    def sum_changed(self, log_slope: Array) -> Array:
        """The sum of the log-slopes of the changed part, of shape ``batch``."""
        return log_slope.sum((-3, -2, -1))


@dataclasses.dataclass(frozen=True)
class CheckerboardPartition:
    """All channels change at the pixels whose row and column sum to an odd number.

    Or to an even number, if ``flip`` is true. Both parts have the size of the image. The kept part
    is zero at the pixels that change.
    """

    event_shape: Shape
    flip: bool = False

    @property
    def num_channels(self) -> tuple[int, int]:
        """The numbers of channels of the kept and of the changed part."""
        return self.event_shape[-1], self.event_shape[-1]

    @property
    def _changes(self) -> np.ndarray:
        height, width, _ = self.event_shape
        odd = np.indices((height, width)).sum(axis=0) % 2 == 1
        return (odd ^ self.flip)[..., None]

    def split(self, value: Array) -> tuple[Array, Array]:
        """Split images into the kept and the changed part."""
        return jnp.where(self._changes, 0.0, value), value

    def merge(self, kept: Array, changed: Array) -> Array:
        """The inverse of :meth:`split`."""
        return jnp.where(self._changes, changed, kept)

    def sum_changed(self, log_slope: Array) -> Array:
        """The sum of the log-slopes of the changed part, of shape ``batch``."""
        return jnp.where(self._changes, log_slope, 0.0).sum((-3, -2, -1))


ImagePartition = ChannelPartition | CheckerboardPartition


def image_partition(caller: str, event_shape: Shape, mask: str, flip: bool) -> ImagePartition:
    """Resolve a mask for images of ``event_shape``.

    Raises:
      ValueError: if the mask is unknown, or if it would keep or change nothing.
    """
    _check.one_of(caller, "mask", mask, MASKS)
    height, width, channels = event_shape
    if mask == "channel":
        if channels < 2:
            raise ValueError(
                f"{caller}: `mask`='channel' must have at least 2 channels to split, got event "
                f"shape {event_shape}"
            )
        return ChannelPartition(event_shape, bool(flip))
    if height * width < 2:
        raise ValueError(
            f"{caller}: `mask`='checkerboard' must have at least 2 pixels, got event shape "
            f"{event_shape}"
        )
    return CheckerboardPartition(event_shape, bool(flip))
