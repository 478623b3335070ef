"""RealNVP for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.conv_coupling import ConvCoupling
from flowdists.bijectors.inverse import Inverse
from flowdists.bijectors.multiscale import MultiScale
from flowdists.bijectors.normalization import ActNorm
from flowdists.bijectors.repeat import Memory
from flowdists.bijectors.squeeze import Squeeze
from flowdists.networks.base import Activation
from flowdists.recipes.registry import alternate, check_image, recipe
from flowdists.transformers import Affine


@recipe
def RealNVPImage(
    key: Array,
    event_shape: Shape,
    *,
    num_scales: int = 2,
    steps_per_scale: int = 4,
    hidden_channels: int = 64,
    scale: str = "tanh",
    context_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    base: Any = None,
    embedding: Any = None,
    residual: bool = True,
    activation: Activation = "relu",
    dtype: str | None = None,
    memory: Memory = "store",
) -> Bijector:
    """RealNVP for images (Dinh, Sohl-Dickstein & Bengio 2017): checkerboards, then channels.

    Every scale has affine couplings with checkerboard masks, squeezes 2×2 pixels into channels, has
    couplings with channel masks, and, but for the last, sets half of its channels aside. Latents
    are standard normal at all scales; :class:`~flowdists.ActNorm` stands where the paper has batch
    normalization. A new flow only moves pixels.

    Args:
      key: PRNG key for the networks.
      event_shape: ``(H, W, C)``, height and width multiples of ``2 ** num_scales``.
      num_scales: scales.
      steps_per_scale: couplings of each kind in every scale; neighbours exchange what they keep.
      hidden_channels: width of the networks.
      scale: how log-scales are bounded: "tanh", "sigmoid" or "exp".
      context_shape: shape of one context, for a conditional flow. It is flattened, and the same for
        every pixel; for images as contexts use ``embedding``.
      num_classes: for labels as context, in place of ``context_shape``: then
        :meth:`~flowdists.ConditionalFlow.condition` takes integers below it.
      base: a NumPyro distribution over ``H * W * C`` latents; standard normal unless given.
      embedding: None; or any callable pytree that maps one context to a vector, trained with the
        flow: :class:`~flowdists.DeepSets`, an :class:`~flowdists.MLP` with ``output_scale=1.0``, an
        Equinox module. Contexts are standardized before it, from the first data.
      residual: whether the networks are residual, as the paper's, or Glow's.
      activation: a function, or the name of one in :mod:`jax.nn`.
      dtype: what the networks compute in, such as "bfloat16".
      memory: as in :class:`~flowdists.Repeat`.

    Returns:
      A :class:`~flowdists.Flow`, or a :class:`~flowdists.ConditionalFlow` with a ``context_shape``.

    Raises:
      TypeError: for a key that is not a key, or a base that is not a distribution.
      ValueError: for shapes or options out of range, each named.

    >>> flow = RealNVPImage(jax.random.key(0), (8, 8, 3), num_scales=1, hidden_channels=8,
    ...                     steps_per_scale=1)
    >>> jax.jit(flow.log_prob)(jnp.zeros((5, 8, 8, 3))).shape
    (5,)
    """
    shape = check_image("RealNVPImage", event_shape, num_scales)

    def couplings(key: Array, mask: str, image: Shape) -> Bijector:
        def make_layer(key: Array, flip: bool) -> Bijector:
            coupling = ConvCoupling(
                key,
                image,
                transformer=Affine(scale=scale),
                mask=mask,
                flip=flip,
                context_shape=context_shape,
                hidden_channels=hidden_channels,
                residual=residual,
                activation=activation,
                dtype=dtype,
            )
            return Chain([coupling, ActNorm(image)])

        return alternate("RealNVPImage", key, make_layer, steps_per_scale, memory=memory)

    scales = []
    for scale_key in jax.random.split(key, num_scales):
        pixel_key, channel_key = jax.random.split(scale_key)
        squeeze = Squeeze(shape)
        scales.append(
            Chain(
                [
                    couplings(channel_key, "channel", squeeze.event_shape_out),
                    Inverse(squeeze),
                    couplings(pixel_key, "checkerboard", shape),
                ]
            )
        )
        height, width, channels = squeeze.event_shape_out
        shape = (height, width, channels // 2)
    return MultiScale(scales)
