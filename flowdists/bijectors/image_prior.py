"""Learned Gaussian priors of image latents, as bijectors from standard normals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp

from flowdists import _check
from flowdists._compensated import rounded, scaled, shifted, unscaled
from flowdists._pytree import static
from flowdists.bijectors._channels import join_channels, split_channels
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.networks.conditioner import flatten_context
from flowdists.networks.conv_net import ZeroConv, embed, zero_embedding


class SplitPrior(Bijector):
    r"""The learned prior of the latents that Glow factors out, as a bijector.

    The first half ``h`` of the channels stays. The second half is ``mu(h) + sigma(h) * z`` with
    ``mu`` and ``log sigma`` from a convolution of ``h`` that starts at zero
    (:class:`~flowdists.networks.ZeroConv`, Kingma & Dhariwal 2018). For standard normal ``z`` that
    is a draw of :math:`N(\mu(h), \sigma(h))`, so that a flow through this layer has the density of
    the paper's explicit sum of Gaussian terms.

    Args:
      event_shape: ``(H, W, C)``, with at least two channels.
      context_shape: shape of one context, or None. Its weights start at zero.

    Raises:
      ValueError: if the event is no image or has a single channel.

    >>> SplitPrior((4, 4, 6)).inverse(jnp.ones((5, 4, 4, 6))).shape
    (5, 4, 4, 6)
    """

    network: ZeroConv
    event_shape: Shape = static()
    context_shape: Shape | None = static(default=None)
    _carries_errors = True

    def __init__(
        self, event_shape: Sequence[int], *, context_shape: Sequence[int] | None = None
    ) -> None:
        self.event_shape = _check.image_shape("SplitPrior", event_shape)
        self.context_shape = _check.optional_shape("SplitPrior", "context_shape", context_shape)
        channels = self.event_shape[-1]
        if channels < 2:
            raise ValueError(
                f"SplitPrior: `event_shape` must have at least 2 channels, got {self.event_shape}"
            )
        context_size = 0 if self.context_shape is None else math.prod(self.context_shape)
        kept = channels // 2
        self.network = ZeroConv(kept, 2 * (channels - kept), context_size)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        kept, z = split_channels(x, self.event_shape[-1] // 2)
        loc, log_scale = self._moments(rounded(kept), context)
        y = join_channels(kept, shifted(scaled(z, log_scale), loc))
        return y, log_scale.sum((-3, -2, -1))

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        kept, given = split_channels(y, self.event_shape[-1] // 2)
        loc, log_scale = self._moments(rounded(kept), context)
        x = join_channels(kept, unscaled(shifted(given, -loc), log_scale))
        return x, -log_scale.sum((-3, -2, -1))

    def _moments(self, kept: Array, context: Array | None) -> tuple[Array, Array]:
        out = self.network(kept, flatten_context(context, self.context_shape))
        loc, log_scale = jnp.split(out, 2, axis=-1)
        return loc, log_scale


class TopPrior(Bijector):
    """The learned prior of Glow's coarsest latents: a location and a scale per channel.

    Both start at those of a standard normal. A context, such as a one-hot class, is added to both
    through weights that start at zero.

    Args:
      event_shape: ``(H, W, C)``.
      context_shape: shape of one context, or None.

    Raises:
      ValueError: if the event is no image.

    >>> layer = TopPrior((4, 4, 6), context_shape=(10,))
    >>> Conditioned(layer, jnp.ones((5, 10))).forward(jnp.ones((4, 4, 6))).shape
    (5, 4, 4, 6)
    """

    loc: Array
    log_scale: Array
    context_weight: Array | None
    event_shape: Shape = static()
    context_shape: Shape | None = static(default=None)
    _carries_errors = True

    def __init__(
        self, event_shape: Sequence[int], *, context_shape: Sequence[int] | None = None
    ) -> None:
        self.event_shape = _check.image_shape("TopPrior", event_shape)
        self.context_shape = _check.optional_shape("TopPrior", "context_shape", context_shape)
        channels = self.event_shape[-1]
        self.loc = jnp.zeros(channels)
        self.log_scale = jnp.zeros(channels)
        context_size = 0 if self.context_shape is None else math.prod(self.context_shape)
        self.context_weight = zero_embedding(context_size, 2 * channels)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        loc, log_scale = self._moments(context)
        log_det = jnp.broadcast_to(log_scale, x.shape).sum((-3, -2, -1))
        return shifted(scaled(x, log_scale), loc), log_det

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        loc, log_scale = self._moments(context)
        log_det = -jnp.broadcast_to(log_scale, y.shape).sum((-3, -2, -1))
        return unscaled(shifted(y, -loc), log_scale), log_det

    def _moments(self, context: Array | None) -> tuple[Array, Array]:
        flat = flatten_context(context, self.context_shape)
        if self.context_weight is None or flat is None:
            return self.loc, self.log_scale
        loc, log_scale = jnp.split(embed(self.context_weight, flat), 2, axis=-1)
        return self.loc + loc, self.log_scale + log_scale
