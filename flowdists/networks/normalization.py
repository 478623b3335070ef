"""Normalization of channels, initialized from data."""

from __future__ import annotations

import jax.numpy as jnp

from flowdists.networks.base import Array, Network


class ChannelNorm(Network):
    """``(h - loc) * exp(-log_scale)`` for each channel (the last axis): ActNorm in a network.

    Args:
      num_channels: length of the last axis.
    """

    loc: Array
    log_scale: Array

    def __init__(self, num_channels: int) -> None:
        self.loc = jnp.zeros(num_channels)
        self.log_scale = jnp.zeros(num_channels)

    def __call__(self, h: Array) -> Array:
        return (h - self.loc) * jnp.exp(-self.log_scale)

    def data_init(self, h: Array, present: Array | None = None) -> ChannelNorm:
        """The normalization after which ``h`` has mean 0 and standard deviation 1.

        Args:
          h: ``(*others, channels)``.
          present: which values count, as in :func:`channel_statistics`.
        """
        norm = ChannelNorm(h.shape[-1])
        norm.loc, norm.log_scale = channel_statistics(h, present=present)
        return norm


def channel_statistics(
    value: Array, channel_ndims: int = 1, present: Array | None = None
) -> tuple[Array, Array]:
    """The mean and the log of the standard deviation of every channel, over all other axes.

    For a constant channel the log of the standard deviation is 0. For a channel without any value
    the mean is 0 as well.

    Args:
      value: ``(*others, channels)``, or ``others`` alone.
      channel_ndims: 1, or 0 for values without an axis of channels.
      present: which of the values count, Booleans that broadcast to ``value``; None for all.
    """
    axes = tuple(range(value.ndim - channel_ndims))
    largest = jnp.abs(value).max(axes, initial=0, where=present)
    scale = _power_of_two(largest)
    scaled = value / scale  # exact, and its squares neither overflow nor underflow
    mean, deviation = scaled.mean(axes, where=present), scaled.std(axes, where=present)
    # The rounding error of a constant channel is not a scale.
    is_scale = deviation > 4 * jnp.finfo(value.dtype).eps * largest / scale
    log_deviation = jnp.log(jnp.where(is_scale, deviation * scale, 1.0))
    return jnp.where(largest == 0, 0.0, mean * scale), log_deviation


def _power_of_two(largest: Array) -> Array:
    """A power of two, a quarter to half of ``largest``, whose reciprocal is a normal number too."""
    normal = jnp.where(largest >= 2 * jnp.finfo(largest.dtype).tiny, largest, 1.0)
    mantissa, _ = jnp.frexp(normal)
    return normal / (4 * mantissa)
