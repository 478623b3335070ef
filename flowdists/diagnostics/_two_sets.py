"""Checks of two sets of draws, which are flattened to vectors."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check

Array = jax.Array


def two_sets(caller: str, x: Any, y: Any, min_draws: int = 1) -> tuple[Array, Array]:
    """The draws ``x`` and ``y`` as matrices of one dtype, in single precision or better.

    Args:
      caller: name of the caller, for error messages.
      x: ``(n, *event_shape)``.
      y: ``(m, *event_shape)``.
      min_draws: how many draws each set must have at least.

    Returns:
      Arrays ``(n, d)`` and ``(m, d)``.
    """
    first, second = _draws(caller, "x", x, min_draws), _draws(caller, "y", y, min_draws)
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"{caller}: `x` and `y` must hold events of one shape, got shapes {first.shape} and "
            f"{second.shape}"
        )
    dtype = jnp.result_type(first, second, jnp.float32)
    x, y = (draws.astype(dtype).reshape(len(draws), -1) for draws in (first, second))
    return x, y


def check_finite(caller: str, argument: str, array: Array) -> None:
    """``array`` is not known to hold NaN or infinity."""
    if isinstance(array, jax.core.Tracer):
        return
    # NumPy computes this even while JAX traces.
    finite = np.isfinite(np.asarray(array)).reshape(len(array), -1).all(-1)
    if not finite.all():
        raise ValueError(
            f"{caller}: `{argument}` must be finite, got NaN or infinity in {(~finite).sum()} of "
            f"{len(array)} rows; the first is at index {finite.argmin()}"
        )


def _draws(caller: str, argument: str, value: Any, min_draws: int) -> Array:
    array = _check.float_array(caller, argument, value)
    if array.ndim == 0 or len(array) < min_draws or math.prod(array.shape[1:]) == 0:
        raise ValueError(
            f"{caller}: `{argument}` must have shape (draws, *event_shape) with at least "
            f"{min_draws} draws of at least 1 element, got {array.shape}"
        )
    check_finite(caller, argument, array)
    return array
