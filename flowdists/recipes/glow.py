"""Glow for images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax

from flowdists import _check
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.conv_coupling import ConvCoupling
from flowdists.bijectors.image_prior import SplitPrior, TopPrior
from flowdists.bijectors.inverse import Inverse
from flowdists.bijectors.linear import InvertibleConv1x1
from flowdists.bijectors.multiscale import MultiScale
from flowdists.bijectors.normalization import ActNorm
from flowdists.bijectors.repeat import Memory, Repeat
from flowdists.bijectors.squeeze import Squeeze
from flowdists.networks.base import Activation
from flowdists.recipes.registry import check_image, recipe
from flowdists.transformers import Additive, Affine, RationalQuadratic, Transformer

COUPLINGS = ("affine", "additive", "spline")

GLOW_SIZES: dict[str, dict[str, Any]] = {
    "mnist": {
        "event_shape": (28, 28, 1),
        "num_scales": 2,
        "steps_per_scale": 16,
        "hidden_channels": 256,
    },
    "cifar10": {
        "event_shape": (32, 32, 3),
        "num_scales": 3,
        "steps_per_scale": 32,
        "hidden_channels": 512,
    },
    "celeba64": {
        "event_shape": (64, 64, 3),
        "num_scales": 3,
        "steps_per_scale": 16,
        "hidden_channels": 512,
    },
    "celeba256": {
        "event_shape": (256, 256, 3),
        "num_scales": 6,
        "steps_per_scale": 32,
        "hidden_channels": 512,
    },
}
"""Published sizes, as options of :func:`~flowdists.Glow`; CelebA's are meant for 5 bits."""


@recipe
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
    num_classes: int | None = None,
    context_shape: Sequence[int] | None = None,
    base: Any = None,
    embedding: Any = None,
    residual: bool = False,
    normalize: bool = False,
    activation: Activation = "relu",
    dtype: str | None = None,
    memory: Memory = "store",
) -> Bijector:
    """Glow (Kingma & Dhariwal 2018): multi-scale, with learned split priors, channels last.

    Every scale squeezes 2×2 pixels into channels, goes through its steps (:func:`glow_step`), and,
    but for the last, sets half of its channels aside, under a Gaussian whose moments a convolution
    computes from the other half. All of it is one bijector from a flat standard normal to the
    image. Linear maps start at a random rotation of the channels; couplings and priors start as
    the identity.

    Args:
      key: PRNG key for the networks and rotations.
      event_shape: ``(H, W, C)``, height and width multiples of ``2 ** num_scales``.
      num_scales: scales.
      steps_per_scale: steps of every scale.
      hidden_channels: width of the couplings' networks.
      coupling: "affine", "additive" or "spline".
      scale: how an affine coupling's log-scales are bounded: "tanh" (on both sides, so that
        sampling and reconstruction are stable, Behrmann et al. 2021), "sigmoid" (the paper's code)
        or "exp".
      num_bins: bins of a spline coupling.
      bound: a spline coupling acts on ``[-bound, bound]``.
      learn_top: whether the coarsest latents have a learned location and scale. With classes or a
        context they always have, and these depend on it.
      num_classes: for labels as context: then :meth:`~flowdists.ConditionalFlow.condition` takes
        integers below it.
      context_shape: shape of one context, for a conditional flow. Contexts enter all networks and
        priors, through weights that start at zero: flattened, and the same for every pixel. For
        images as contexts use ``embedding``.
      base: a NumPyro distribution over ``H * W * C`` latents; standard normal unless given.
      embedding: None; or any callable pytree that maps one context to a vector, trained with the
        flow: :class:`~flowdists.DeepSets`, an :class:`~flowdists.MLP` with ``output_scale=1.0``, an
        Equinox module. Contexts are standardized before it, from the first data.
      residual: whether the networks are residual.
      normalize: whether the networks normalize their hidden layers, as the paper's code does.
      activation: a function, or the name of one in :mod:`jax.nn`.
      dtype: what the networks compute in, such as "bfloat16".
      memory: "store", "checkpoint" or "invert", as in :class:`~flowdists.Repeat`: whether the
        memory of training grows with ``steps_per_scale``. "invert" has derivatives in reverse mode
        only. It is configuration, which a saved flow keeps: ``load(path, like=Glow(...,
        memory="store"))`` reads it as another one.

    Returns:
      A :class:`~flowdists.Flow`, or a :class:`~flowdists.ConditionalFlow` with classes or a
      ``context_shape``. Published sizes are in ``flowdists.recipes.GLOW_SIZES``:
      ``Glow(key, **GLOW_SIZES["cifar10"])``.

    Raises:
      TypeError: for a key that is not a key, or a base that is not a distribution.
      ValueError: for shapes or options out of range, each named.

    >>> flow = Glow(jax.random.key(0), (8, 8, 1), num_scales=2, steps_per_scale=1,
    ...             hidden_channels=8)
    >>> jax.jit(flow.log_prob)(jnp.zeros((5, 8, 8, 1))).shape
    (5,)
    """
    shape = check_image("Glow", event_shape, num_scales)
    _check.positive_int("Glow", "steps_per_scale", steps_per_scale)
    _check.one_of("Glow", "coupling", coupling, COUPLINGS)
    transformers: dict[str, Transformer] = {
        "affine": Affine(scale=scale),
        "additive": Additive(),
        "spline": RationalQuadratic(num_bins=num_bins, bound=bound),
    }
    scales: list[Bijector] = []
    for i, scale_key in enumerate(jax.random.split(key, num_scales)):
        squeeze = Squeeze(shape)
        height, width, channels = squeeze.event_shape_out
        make_step = functools.partial(
            glow_step,
            event_shape=squeeze.event_shape_out,
            transformer=transformers[coupling],
            context_shape=context_shape,
            hidden_channels=hidden_channels,
            residual=residual,
            normalize=normalize,
            activation=activation,
            dtype=dtype,
        )
        stack = Repeat(scale_key, make_step, steps_per_scale, memory=memory)
        layers: list[Bijector] = [stack, Inverse(squeeze)]
        if i < num_scales - 1:
            layers.insert(0, SplitPrior(squeeze.event_shape_out, context_shape=context_shape))
        elif learn_top or context_shape is not None:
            layers.insert(0, TopPrior(squeeze.event_shape_out, context_shape=context_shape))
        scales.append(Chain(layers))
        shape = (height, width, channels // 2)
    return MultiScale(scales)


def glow_step(key: Array, event_shape: Sequence[int], **options: Any) -> Chain:
    """One step of Glow: ActNorm, an invertible 1×1 convolution and a coupling of the channels.

    That is the order of the density direction; the coupling's transformer, too, is applied forward
    there.

    Args:
      key: PRNG key.
      event_shape: ``(H, W, C)``.
      **options: of the :class:`~flowdists.ConvCoupling`.

    >>> step = glow_step(jax.random.key(0), (4, 4, 4), hidden_channels=8)
    >>> jax.jit(step)(jnp.ones((5, 4, 4, 4))).shape
    (5, 4, 4, 4)
    """
    linear_key, coupling_key = jax.random.split(key)
    return Chain(
        [
            Inverse(ConvCoupling(coupling_key, event_shape, **options)),
            # Turned around, the linear map is a plain matrix product in the density direction.
            Inverse(InvertibleConv1x1(linear_key, event_shape)),
            ActNorm(event_shape),
        ]
    )
