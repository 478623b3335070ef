"""Checks of images that users hand in: shapes, and pixels that are continuous."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists._check import Shape

_CONTINUOUS = (
    "keep images of levels 0 to 255 as uint8, and make them continuous by `flowdists.dequantize` "
    "(in `fit`, `transform=flowdists.dequantize`), or without noise by "
    "`flowdists.images.from_uint8`"
)


def image_shape(caller: str, value: Any) -> Shape:
    """``value``, the argument `event_shape`, as height, width and channels."""
    sizes = _check.shape(caller, "event_shape", value)
    if len(sizes) != 3:
        raise ValueError(
            f"{caller}: `event_shape` must be (height, width, channels), got {tuple(sizes)}"
        )
    return sizes


def continuous(caller: str, argument: str, value: Any) -> jax.Array:
    """``value`` as a floating-point array. For integers the error says how to dequantize them."""
    dtype = jnp.result_type(value)
    if jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(
            f"{caller}: `{argument}` must have a floating-point dtype, got {dtype}; {_CONTINUOUS}"
        )
    return _check.float_array(caller, argument, value)


def pixels(caller: str, argument: str, value: Any) -> jax.Array:
    """``value`` as :func:`continuous` pixels, not known to hold NaN, or levels cast to floats."""
    array = continuous(caller, argument, value)
    _check.no_nan(caller, argument, array)
    if isinstance(array, jax.core.Tracer) or array.size == 0:
        return array
    values = np.asarray(array)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 1 < high <= 255 and (values == np.floor(values)).all():
        raise ValueError(
            f"{caller}: `{argument}` must hold continuous pixels, got levels, whole numbers up to "
            f"{high:g}; {_CONTINUOUS}"
        )
    return array
