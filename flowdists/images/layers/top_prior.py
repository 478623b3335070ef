"""The learned prior of Glow's coarsest latents, as a bijector from a standard normal."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from flowdists import _check
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.images.check import image_shape
from flowdists.images.networks.conv_net import add_context, zero_embedding
from flowdists.networks.conditioner import context_size, flatten_context


class TopPrior(Bijector):
    """The learned prior of Glow's coarsest latents: a location and a scale for each channel.

    It starts as a standard normal. A context, such as a one-hot class, is added to the locations
    and log-scales through weights that start at zero.

    Args:
      event_shape: ``(H, W, C)``.
      context_shape: shape of one context, or None.

    Raises:
      ValueError: if the event is not an image.

    >>> layer = TopPrior((4, 4, 6), context_shape=(10,))
    >>> Conditioned(layer, jnp.ones((5, 10))).forward(jnp.ones((4, 4, 6))).shape
    (5, 4, 4, 6)
    """

    loc: Array
    log_scale: Array
    context_weight: Array | None
    event_shape: Shape = static()
    context_shape: Shape | None = static(default=None)

    def __init__(
        self, event_shape: Sequence[int], *, context_shape: Sequence[int] | None = None
    ) -> None:
        self.event_shape = image_shape("TopPrior", event_shape)
        self.context_shape = _check.optional_shape("TopPrior", "context_shape", context_shape)
        channels = self.event_shape[-1]
        self.loc = jnp.zeros(channels)
        self.log_scale = jnp.zeros(channels)
        self.context_weight = zero_embedding(context_size(self.context_shape), 2 * channels)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        loc, log_scale = self._moments(context)
        log_det = jnp.broadcast_to(log_scale, x.shape).sum((-3, -2, -1))
        return loc + x * jnp.exp(log_scale), log_det

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        loc, log_scale = self._moments(context)
        log_det = -jnp.broadcast_to(log_scale, y.shape).sum((-3, -2, -1))
        return (y - loc) * jnp.exp(-log_scale), log_det

    def _moments(self, context: Array | None) -> tuple[Array, Array]:
        flat = flatten_context(context, self.context_shape)
        moments = jnp.concatenate([self.loc, self.log_scale])
        loc, log_scale = jnp.split(add_context(moments, self.context_weight, flat), 2, axis=-1)
        return loc, log_scale
