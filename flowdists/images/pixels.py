"""Levels of pixels, and the continuous values that stand for them.

An image of ``num_bits`` bits has levels ``0 <= k < 2**num_bits``. Level ``k`` is the bin
``[k, k + 1) / 2**num_bits - 0.5`` of the scale on which flows see images, ``[-0.5, 0.5)``.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists._pytree import is_traced
from flowdists.bijectors.base import Array, Shape
from flowdists.images.check import continuous, holds_levels


def reduce_bits(images: Any, num_bits: int) -> Array:
    """Keep the ``num_bits`` highest bits of each pixel.

    Args:
      images: uint8 levels 0 to 255, any shape.
      num_bits: from 1 to 8.

    Returns:
      uint8 levels in ``[0, 2**num_bits)``, of the shape of ``images``.

    Raises:
      TypeError: if the images are not uint8.
      ValueError: if ``num_bits`` is out of range.

    >>> from flowdists.images import reduce_bits
    >>> print(reduce_bits(jnp.array([0, 7, 8, 255], jnp.uint8), num_bits=5))
    [ 0  0  1 31]
    """
    return levels_of("reduce_bits", images, num_bits)


def dequantize(key: Array, images: Any, *, num_bits: int = 8) -> Array:
    r"""Reduce images to ``num_bits`` bits and spread each level uniformly over its bin.

    .. math:: x = (k + u) / 2^b - 1/2, \qquad k = \lfloor image / 2^{8 - b} \rfloor

    The noise ``u`` lies strictly inside (0, 1), on a grid of at least 32,768 points. On this grid
    the formula has no rounding error: no value reaches the next bin or an end of the scale.

    Args:
      key: PRNG key.
      images: uint8 levels 0 to 255, any shape.
      num_bits: bits to keep, from 1 to 8.

    Returns:
      float32 values in (-0.5, 0.5), of the shape of ``images``.

    Raises:
      TypeError: if the images are not uint8, or for a key that is not a key.
      ValueError: if ``num_bits`` is out of range.

    >>> from flowdists.images import dequantize, to_uint8
    >>> images = jnp.array([[0, 128, 255]], jnp.uint8)
    >>> x = dequantize(jax.random.key(0), images)
    >>> print(x.dtype, to_uint8(x))
    float32 [[  0 128 255]]
    """
    levels = levels_of("dequantize", images, num_bits)
    key = _check.key("dequantize", key)
    cells = 2.0 ** (int(jnp.finfo(jnp.float32).nmant) - num_bits)
    u = jax.random.uniform(key, levels.shape, jnp.float32)
    return place(levels, (jnp.floor(cells * u) + 0.5) / cells, num_bits)


def to_uint8(x: Any, num_bits: int = 8) -> Array:
    """Turn values on the scale ``[-0.5, 0.5)`` back to levels 0 to 255, for display.

    Bin ``k`` becomes the level ``k * 2**(8 - num_bits)``. Values outside the scale go to its ends.

    Args:
      x: floating point, any shape.
      num_bits: bits of the images, from 1 to 8.

    Returns:
      uint8, of the shape of ``x``. In a traced function, which cannot raise errors, NaN becomes 0.

    Raises:
      TypeError: if ``x`` is not floating point.
      ValueError: if ``num_bits`` is out of range, or pixels are known to be NaN.

    >>> from flowdists.images import to_uint8
    >>> print(to_uint8(jnp.array([-0.5, 0.0, 0.499, 3.0]), num_bits=1))
    [  0 128 128 128]
    """
    x = continuous("to_uint8", "x", x)
    num_bits = check_num_bits("to_uint8", num_bits)
    _check.no_nan("to_uint8", "x", x)
    half = 2 ** (num_bits - 1)
    # A product with a power of two and a sum of integers are not rounded.
    levels = jnp.clip(jnp.floor(x * (2 * half)), -half, half - 1) + half
    return jnp.nan_to_num(levels).astype(jnp.uint8) << (8 - num_bits)


def from_uint8(images: Any, num_bits: int = 8) -> Array:
    """Turn levels to the middles of their bins: dequantization without noise.

    Use it to encode images or to condition on them, so that the same image always gives the same
    result. :func:`to_uint8` is the inverse, except for bits that were cut off. For training use
    :func:`dequantize`, because without noise the density can grow without bound.

    Args:
      images: uint8 levels 0 to 255, any shape.
      num_bits: bits to keep, from 1 to 8.

    Returns:
      Values in (-0.5, 0.5) of JAX's default float dtype, of the shape of ``images``.

    Raises:
      TypeError: if the images are not uint8.
      ValueError: if ``num_bits`` is out of range.

    >>> from flowdists.images import from_uint8, to_uint8
    >>> x = from_uint8(jnp.array([0, 128, 255], jnp.uint8), num_bits=1)
    >>> print(x, to_uint8(x, num_bits=1))
    [-0.25  0.25  0.25] [  0 128 128]
    """
    return centers(levels_of("from_uint8", images, num_bits), num_bits)


def bits_per_dim(log_prob: Any, event_shape: Shape, num_bits: int = 8) -> Array:
    r"""Convert log-densities of dequantized images to bits per dimension of the discrete images.

    .. math:: -\log p(x) / (D \ln 2) + b

    Args:
      log_prob: log-densities in nats, on the scale [-0.5, 0.5), any shape.
      event_shape: shape of one image, of ``D`` elements.
      num_bits: bits of the images, from 1 to 8; or 0 if ``log_prob`` already holds log-masses of
        discrete images, as :func:`~flowdists.image_log_prob` returns them.

    Returns:
      Bits per dimension, of the shape of ``log_prob``.

    Raises:
      TypeError: if ``log_prob`` is not floating point.
      ValueError: if the shape or ``num_bits`` is out of range.

    >>> from flowdists.images import bits_per_dim
    >>> print(bits_per_dim(jnp.array(0.0), (32, 32, 3), num_bits=5))  # uniform on the scale
    5.0
    """
    log_prob = _check.float_array("bits_per_dim", "log_prob", log_prob)
    shape = _check.shape("bits_per_dim", "event_shape", event_shape)
    num_bits = check_num_bits("bits_per_dim", num_bits, minimum=0)
    return num_bits - log_prob / (math.prod(shape) * math.log(2))


def levels_of(caller: str, images: Any, num_bits: Any) -> Array:
    """Check uint8 ``images`` and reduce them to levels of ``num_bits`` bits."""
    num_bits = check_num_bits(caller, num_bits)
    try:
        images = jnp.asarray(images)
    except TypeError as error:
        raise TypeError(
            f"{caller}: `images` must be a uint8 array, got {type(images).__name__}"
        ) from error
    if images.dtype != jnp.uint8:
        raise TypeError(f"{caller}: `images` must be uint8, {_describe(images)}")
    return images >> (8 - num_bits)


def place(levels: Array, u: Array, num_bits: int) -> Array:
    """Values in the bins of ``levels``, at the fractions ``u`` in [0, 1], in the dtype of ``u``.

    Rounding never leads out of a bin or to its ends. For that ``u`` moves by at most one unit of
    rounding, which does not change its gradient.
    """
    return (levels.astype(u.dtype) + _inside(u, num_bits)) / 2**num_bits - 0.5


def bins(x: Array, num_bits: int) -> tuple[Array, Array]:
    """The inverse of :func:`place`: levels, as floats, and fractions strictly inside (0, 1)."""
    half = 2 ** (num_bits - 1)
    scaled = x * (2 * half)  # a power of two: nothing is rounded
    below = jnp.floor(scaled)
    return below + half, _inside(scaled - below, num_bits)


def centers(levels: Array, num_bits: int) -> Array:
    """The middles of the bins of ``levels``, in JAX's default float dtype."""
    return (levels.astype(jnp.result_type(float)) + 0.5) / 2**num_bits - 0.5


def _inside(u: Array, num_bits: int) -> Array:
    """Fractions of bins, moved off 0 and 1 by at most one unit of rounding."""
    margin = 2.0 ** (num_bits - 1 - int(jnp.finfo(u.dtype).nmant))
    return u + jax.lax.stop_gradient(jnp.clip(u, margin, 1 - margin) - u)


def check_num_bits(caller: str, num_bits: Any, minimum: int = 1) -> int:
    """``num_bits`` as an int from ``minimum`` to 8."""
    is_integer = isinstance(num_bits, int | np.integer) and not isinstance(num_bits, bool)
    if not is_integer or not minimum <= num_bits <= 8:
        raise ValueError(
            f"{caller}: `num_bits` must be an int from {minimum} to 8, got {num_bits!r}"
        )
    return int(num_bits)


def _describe(images: Array) -> str:
    """What was given in place of uint8 images, and what to do about it."""
    given, expected = f"got {images.dtype}", "expected are levels 0 to 255"
    if is_traced(images) or images.size == 0 or images.dtype == bool:
        return f"{given}; {expected}"
    low, high = images.min(), images.max()
    if holds_levels(images):
        return f"{given} with values up to {high:g}; convert with `.astype('uint8')`"
    return f"{given} with values from {low:g} to {high:g}; {expected}"
