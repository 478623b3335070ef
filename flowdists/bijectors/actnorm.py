"""ActNorm: an affine map for each channel, initialized from data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp

from flowdists import _check
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.networks.normalization import channel_statistics


class ActNorm(Bijector):
    """``y = loc + exp(log_scale) * x``, with one location and scale per channel (the last axis).

    From Kingma and Dhariwal 2018 (https://arxiv.org/abs/1807.03039). It starts as the identity.
    :meth:`data_init` sets it so that a given batch, mapped by ``inverse``, has mean 0 and standard
    deviation 1 in every channel. The log-determinant is the number of positions times
    ``sum(log_scale)``.

    Args:
      event_shape: shape of one event, channels last.

    Raises:
      ValueError: for an invalid shape.

    >>> import jax.numpy as jnp
    >>> layer, z = ActNorm((2,)).data_init(jnp.array([[1.0, 5.0], [3.0, 9.0]]))
    >>> print(z)
    [[-1. -1.]
     [ 1.  1.]]
    """

    loc: Array
    log_scale: Array
    event_shape: Shape = static()

    def __init__(self, event_shape: Sequence[int]) -> None:
        self.event_shape = _check.shape("ActNorm", "event_shape", event_shape)
        self.loc = jnp.zeros(self.event_shape[-1:])
        self.log_scale = jnp.zeros(self.event_shape[-1:])

    @property
    def is_constant_jacobian(self) -> bool:
        return True

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self.loc + x * jnp.exp(self.log_scale), self._log_det

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return (y - self.loc) * jnp.exp(-self.log_scale), -self._log_det

    @property
    def _log_det(self) -> Array:
        return math.prod(self.event_shape[:-1]) * self.log_scale.sum()

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        """Return the layer that normalizes ``value``, and the normalized value.

        A channel that is constant in the batch keeps its scale.
        """
        value = _check.float_array("ActNorm.data_init", "value", value)
        mean, log_deviation = channel_statistics(value, len(self.event_shape[-1:]))
        layer = ActNorm(self.event_shape)
        if direction == "inverse":
            layer.loc, layer.log_scale = mean, log_deviation
        else:
            layer.loc, layer.log_scale = -mean * jnp.exp(-log_deviation), -log_deviation
        return layer, getattr(layer, f"{direction}_and_log_det")(value)[0]
