"""Checks of what users hand in for images: shapes, pixels, latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists._check import Shape
from flowdists._events import batch_of
from flowdists._pytree import is_traced

_CONTINUOUS = (
    "keep images of levels 0 to 255 as uint8, and make them continuous by `flowdists.dequantize` "
    "(in `fit`, `transform=flowdists.dequantize`), or without noise by "
    "`flowdists.images.from_uint8`"
)


def instance(caller: str, argument: str, value: Any, *classes: type) -> None:
    """``value`` is an instance of one of the classes."""
    if not isinstance(value, classes):
        names = " or ".join(cls.__name__ for cls in classes)
        raise TypeError(f"{caller}: `{argument}` must be a {names}, got {type(value).__name__}")


def image_shape(caller: str, value: Any) -> Shape:
    """``value``, the argument `event_shape`, as height, width and channels."""
    sizes = _check.shape(caller, "event_shape", value)
    if len(sizes) != 3:
        raise ValueError(f"{caller}: `event_shape` must be (height, width, channels), got {sizes}")
    return sizes


def events(caller: str, argument: str, value: Any, shape: Shape) -> jax.Array:
    """``value`` as a floating-point array ``(*batch, *shape)``."""
    array = _check.float_array(caller, argument, value)
    _check.event_shape(caller, argument, array.shape, shape, len(shape))
    return array


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
    if holds_levels(array):
        raise ValueError(
            f"{caller}: `{argument}` must hold continuous pixels, got levels, whole numbers up to "
            f"{array.max():g}; {_CONTINUOUS}"
        )
    return array


def holds_levels(array: jax.Array) -> bool:
    """Whether ``array`` is known to hold whole numbers from 0 to 255, and not only 0 and 1."""
    if is_traced(array) or array.size == 0:
        return False
    values = np.asarray(array)
    in_range = values.min() >= 0 and 1 < values.max() <= 255
    return bool(in_range and (values == np.floor(values)).all())


def latents(
    caller: str, argument: str, value: Any, shapes: Sequence[Shape]
) -> tuple[jax.Array, ...]:
    """``value`` as one array for each scale, of batch shapes that broadcast."""
    is_sequence = isinstance(value, list | tuple)
    if not is_sequence or len(value) != len(shapes):
        given = len(value) if is_sequence else type(value).__name__
        raise ValueError(
            f"{caller}: `{argument}` must be a sequence of {len(shapes)} arrays, one for each "
            f"scale of the flow, got {given}"
        )
    pieces = tuple(
        events(caller, f"{argument}[{i}]", piece, shape)
        for i, (piece, shape) in enumerate(zip(value, shapes, strict=True))
    )
    batches = [batch_of(piece, shape) for piece, shape in zip(pieces, shapes, strict=True)]
    broadcast(caller, f"the batch shapes of `{argument}`", *batches)
    return pieces


def broadcast(caller: str, what: str, *shapes: Shape) -> Shape:
    """The shape that ``shapes`` broadcast to, or an error about ``what``."""
    try:
        return jnp.broadcast_shapes(*shapes)
    except ValueError:
        given = " and ".join(map(str, shapes))
        raise ValueError(f"{caller}: {what} must broadcast, got {given}") from None
