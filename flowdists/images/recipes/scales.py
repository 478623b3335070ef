"""What recipes for images share: scales, each of half the height and width of the one before."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax

from flowdists import _check
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.compose.chain import Chain
from flowdists.images.check import image_shape
from flowdists.images.layers.multiscale import MultiScale
from flowdists.images.layers.squeeze import Squeeze
from flowdists.recipes.registry import recipe

image_recipe = functools.partial(recipe, without=("hidden_sizes", "conditional_base", "support"))
"""Like :func:`recipe`, without the options that only vectors have."""


def stack_scales(
    caller: str,
    key: Array,
    event_shape: Shape,
    num_scales: int,
    make_scale: Callable[[Array, Squeeze, bool], Sequence[Bijector]],
) -> MultiScale:
    """Stack scales. Each gets half of the channels that the scale before it makes.

    Args:
      caller: the name of the recipe, for error messages.
      key: PRNG key.
      event_shape: ``(H, W, C)``.
      num_scales: number of scales.
      make_scale: builds the layers of a scale, in the order from latents to image. It is given a
        key, the scale's squeeze, and whether the scale is the last.

    Raises:
      ValueError: if the event is not an image, or if it cannot be halved so often. The message
        gives the nearest sizes that can.
    """
    shape = _check_image(caller, event_shape, num_scales)
    scales = []
    for i, scale_key in enumerate(jax.random.split(key, num_scales)):
        squeeze = Squeeze(shape)
        scales.append(Chain(make_scale(scale_key, squeeze, i == num_scales - 1)))
        height, width, channels = squeeze.event_shape_out
        shape = (height, width, channels // 2)
    return MultiScale(scales)


def _check_image(caller: str, event_shape: Shape, num_scales: int) -> Shape:
    height, width, channels = image_shape(caller, event_shape)
    factor = 2 ** _check.positive_int(caller, "num_scales", num_scales)
    if height % factor or width % factor:
        nearest = [
            tuple(factor * max(1, f(n / factor)) for n in (height, width))
            for f in (math.floor, math.ceil)
        ]
        raise ValueError(
            f"{caller}: `event_shape` must have height and width that are multiples of {factor} "
            f"for {num_scales} scales, got {event_shape}; the nearest are "
            f"{(*nearest[0], channels)} and {(*nearest[1], channels)} (crop, or pad)"
        )
    return height, width, channels
