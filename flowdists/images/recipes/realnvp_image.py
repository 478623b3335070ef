"""RealNVP for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from flowdists.bijectors.actnorm import ActNorm
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.compose.chain import Chain
from flowdists.bijectors.compose.inverse import Inverse
from flowdists.bijectors.compose.repeat import Memory
from flowdists.images.layers.coupling import ConvCoupling
from flowdists.images.layers.squeeze import Squeeze
from flowdists.images.recipes.scales import image_recipe, stack_scales
from flowdists.recipes.stack import alternate
from flowdists.transformers import ShiftScale


@image_recipe
def RealNVPImage(
    key: Array,
    event_shape: Shape,
    *,
    num_scales: int = 2,
    steps_per_scale: int = 4,
    hidden_channels: int = 64,
    scale: str = "tanh",
    residual: bool = True,
    dtype: str | None = None,
    memory: Memory = "store",
    context_shape: Sequence[int] | None = None,
    **network: Any,
) -> Bijector:
    """RealNVP for images (Dinh, Sohl-Dickstein & Bengio 2017, https://arxiv.org/abs/1605.08803).

    On the way to the latents each scale applies affine couplings with checkerboard masks, squeezes
    2×2 pixels into channels, and applies couplings with channel masks. Each scale but the last then
    sets half of its channels aside. The latents of all scales are one standard normal vector.
    :class:`~flowdists.ActNorm` takes the place of the paper's batch normalization. A new flow only
    permutes pixels.

    Args:
      key: PRNG key for the networks.
      event_shape: ``(H, W, C)``, height and width multiples of ``2 ** num_scales``.
      num_scales: number of scales.
      steps_per_scale: couplings of each kind in each scale; neighbours keep opposite parts.
      hidden_channels: width of the networks.
      scale: how log-scales are bounded: "tanh", "sigmoid" or "exp", as in
        :func:`~flowdists.Glow`.
      residual: whether the networks are residual, as in the paper, or those of Glow.
      dtype: the dtype in which the networks compute, such as "bfloat16".
      memory: as in :class:`~flowdists.Repeat`.
      context_shape: shape of one context, for a conditional flow. Contexts are flattened, and are
        the same for every pixel. For contexts that are images use ``embedding``.
      **network: other options of the networks.

    >>> flow = RealNVPImage(jax.random.key(0), (8, 8, 3), num_scales=1, hidden_channels=8,
    ...                     steps_per_scale=1)
    >>> jax.jit(flow.log_prob)(jnp.zeros((5, 8, 8, 3))).shape
    (5,)
    """

    def couplings(key: Array, mask: str, image: Shape) -> Bijector:
        def make_layer(key: Array, flip: bool) -> Bijector:
            coupling = ConvCoupling(
                key,
                image,
                transformer=ShiftScale(scale=scale),
                mask=mask,
                flip=flip,
                context_shape=context_shape,
                hidden_channels=hidden_channels,
                residual=residual,
                dtype=dtype,
                **network,
            )
            return Chain([coupling, ActNorm(image)])

        return alternate("RealNVPImage", key, make_layer, steps_per_scale, memory=memory)

    def make_scale(key: Array, squeeze: Squeeze, is_last: bool) -> list[Bijector]:
        pixel_key, channel_key = jax.random.split(key)
        return [
            couplings(channel_key, "channel", squeeze.event_shape_out),
            Inverse(squeeze),
            couplings(pixel_key, "checkerboard", squeeze.event_shape),
        ]

    return stack_scales("RealNVPImage", key, event_shape, num_scales, make_scale)
