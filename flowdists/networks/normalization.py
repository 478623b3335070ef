"""Normalization per channel that starts from data."""

from __future__ import annotations

import jax.numpy as jnp

from flowdists.networks.base import Array, Network


class ChannelNorm(Network):
    """``(h - loc) * exp(-log_scale)`` per channel (the last axis): ActNorm inside of a network.

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

    def data_init(self, h: Array) -> ChannelNorm:
        """The normalization after which ``h`` has mean 0 and standard deviation 1."""
        norm = ChannelNorm(h.shape[-1])
        norm.loc, norm.log_scale = channel_statistics(h)
        return norm


def channel_statistics(value: Array, channel_ndims: int = 1) -> tuple[Array, Array]:
    """The mean and the log of the standard deviation of every channel, over all other axes.

    A channel that is constant has a log-deviation of 0.

    Args:
      value: ``(*others, channels)``, or ``others`` alone.
      channel_ndims: 1, or 0 for values without an axis of channels.
    """
    axes = tuple(range(value.ndim - channel_ndims))
    mean, deviation = value.mean(axes), value.std(axes)
    # What rounding leaves of a constant channel is not a scale.
    rounding = 4 * jnp.finfo(value.dtype).eps * jnp.abs(value).max(axes, initial=0)
    return mean, jnp.log(jnp.where(deviation > rounding, deviation, 1.0))
