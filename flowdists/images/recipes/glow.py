"""Glow for images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax

from flowdists import _check
from flowdists.bijectors.actnorm import ActNorm
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.compose.chain import Chain
from flowdists.bijectors.compose.inverse import Inverse
from flowdists.bijectors.compose.repeat import Memory, Repeat
from flowdists.images.layers.conv1x1 import InvertibleConv1x1
from flowdists.images.layers.coupling import ConvCoupling, SplitPrior
from flowdists.images.layers.squeeze import Squeeze
from flowdists.images.layers.top_prior import TopPrior
from flowdists.images.recipes.scales import image_recipe, stack_scales
from flowdists.transformers import Additive, RationalQuadratic, ShiftScale, Transformer

_SIZES: dict[str, tuple[Shape, int, int, int]] = {
    "mnist": ((28, 28, 1), 2, 16, 256),
    "cifar10": ((32, 32, 3), 3, 32, 512),
    "celeba64": ((64, 64, 3), 3, 16, 512),
    "celeba256": ((256, 256, 3), 6, 32, 512),
}
_OPTIONS = ("event_shape", "num_scales", "steps_per_scale", "hidden_channels")

GLOW_SIZES: dict[str, dict[str, Any]] = {
    name: dict(zip(_OPTIONS, sizes, strict=True)) for name, sizes in _SIZES.items()
}
"""Published sizes, as options of :func:`~flowdists.Glow`; those of CelebA are for 5 bits."""


@image_recipe
def Glow(
    key: Array,
    event_shape: Shape = (32, 32, 3),
    *,
    num_scales: int = 3,
    steps_per_scale: int = 32,
    hidden_channels: int = 512,
    coupling: str = "affine",
    scale: str = "tanh",
    num_bins: int = 8,
    bound: float = 3.0,
    learn_top: bool = True,
    normalize: bool = False,
    dtype: str | None = None,
    memory: Memory = "store",
    context_shape: Sequence[int] | None = None,
    **network: Any,
) -> Bijector:
    """Glow (Kingma & Dhariwal 2018, https://arxiv.org/abs/1807.03039).

    It is multi-scale, with learned split priors; channels are last. On the way to the latents each
    scale squeezes 2×2 pixels into channels and applies its steps (:func:`glow_step`). Each scale
    but the last then sets half of its channels aside. These have a Gaussian prior, whose moments a
    convolution computes from the other half. The whole is one bijector from a vector of
    ``H * W * C`` standard normal latents to the image. Linear maps start as random rotations of the
    channels, couplings and priors as the identity. Published sizes are in
    ``flowdists.images.GLOW_SIZES``: ``Glow(key, **GLOW_SIZES["cifar10"])``.

    Args:
      key: PRNG key for the networks and rotations.
      event_shape: ``(H, W, C)``, height and width multiples of ``2 ** num_scales``.
      num_scales: number of scales.
      steps_per_scale: steps of each scale.
      hidden_channels: width of the couplings' networks.
      coupling: "affine", "additive" or "spline".
      scale: how the log-scales of an affine coupling are bounded: "tanh" (on both sides, so that
        sampling and reconstruction are stable, Behrmann et al. 2021,
        https://arxiv.org/abs/2006.09347), "sigmoid" (above only, as in the paper's code) or "exp"
        (not at all).
      num_bins: bins of a spline coupling.
      bound: a spline coupling acts on ``[-bound, bound]``.
      learn_top: whether the coarsest latents have a learned location and scale. With classes or a
        context they always do, and both depend on it.
      normalize: whether the networks normalize their hidden layers, as the paper's code does.
      dtype: the dtype in which the networks compute, such as "bfloat16".
      memory: "store", "checkpoint" or "invert", as in :class:`~flowdists.Repeat`: how the memory of
        training grows with ``steps_per_scale``. "invert" has derivatives in reverse mode only. A
        saved flow keeps the choice. To load it with another one, call ``load(path, like=Glow(...,
        memory="store"))``.
      context_shape: shape of one context, for a conditional flow. Contexts are flattened, and enter
        all networks and priors through weights that start at zero. They are the same for every
        pixel. For contexts that are images use ``embedding``.
      **network: other options of the couplings' networks.

    >>> flow = Glow(jax.random.key(0), (8, 8, 1), num_scales=2, steps_per_scale=1,
    ...             hidden_channels=8)
    >>> jax.jit(flow.log_prob)(jnp.zeros((5, 8, 8, 1))).shape
    (5,)
    """
    _check.positive_int("Glow", "steps_per_scale", steps_per_scale)
    transformers: dict[str, Transformer] = {
        "affine": ShiftScale(scale=scale),
        "additive": Additive(),
        "spline": RationalQuadratic(num_bins=num_bins, bound=bound),
    }
    _check.one_of("Glow", "coupling", coupling, tuple(transformers))

    def make_scale(key: Array, squeeze: Squeeze, is_last: bool) -> list[Bijector]:
        shape = squeeze.event_shape_out
        make_step = functools.partial(
            glow_step,
            event_shape=shape,
            transformer=transformers[coupling],
            context_shape=context_shape,
            hidden_channels=hidden_channels,
            normalize=normalize,
            dtype=dtype,
            **network,
        )
        steps = [Repeat(key, make_step, steps_per_scale, memory=memory), Inverse(squeeze)]
        if not is_last:
            return [SplitPrior(shape, context_shape=context_shape), *steps]
        if learn_top or context_shape is not None:
            return [TopPrior(shape, context_shape=context_shape), *steps]
        return steps

    return stack_scales("Glow", key, event_shape, num_scales, make_scale)


def glow_step(key: Array, event_shape: Sequence[int], **options: Any) -> Chain:
    """One step of Glow: ActNorm, an invertible 1×1 convolution and a coupling of the channels.

    This is their order in the density direction, in which the coupling's transformer is applied
    forward.

    Args:
      key: PRNG key.
      event_shape: ``(H, W, C)``.
      **options: options of the :class:`~flowdists.ConvCoupling`.

    >>> step = glow_step(jax.random.key(0), (4, 4, 4), hidden_channels=8)
    >>> jax.jit(step)(jnp.ones((5, 4, 4, 4))).shape
    (5, 4, 4, 4)
    """
    linear_key, coupling_key = jax.random.split(key)
    return Chain(
        [
            Inverse(ConvCoupling(coupling_key, event_shape, **options)),
            # Inverted, the linear map is a plain matrix product in the density direction.
            Inverse(InvertibleConv1x1(linear_key, event_shape)),
            ActNorm(event_shape),
        ]
    )
