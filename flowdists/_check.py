"""Checks of arguments. An error names the argument, what was given and what was expected."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shape = tuple[int, ...]


def float_array(caller: str, argument: str, value: Any) -> jax.Array:
    """``value`` as a floating-point JAX array."""
    try:
        array = jnp.asarray(value)
    except TypeError as error:
        raise TypeError(
            f"{caller}: `{argument}` must be a floating-point array, got {type(value).__name__}"
        ) from error
    if not jnp.issubdtype(array.dtype, jnp.floating):
        is_level = array.dtype == jnp.uint8
        hint = "levels need `flowdists.dequantize`" if is_level else f"`{argument}.astype(float)`"
        raise TypeError(
            f"{caller}: `{argument}` must have a floating-point dtype, got {array.dtype}; convert "
            f"it first: {hint}"
        )
    return array


def no_nan(caller: str, argument: str, value: Any) -> None:
    """Raise if an element of ``value`` is known to be NaN."""
    if isinstance(value, jax.core.Tracer):
        return
    undefined = int(np.isnan(np.asarray(value)).sum())
    if undefined:
        raise ValueError(
            f"{caller}: `{argument}` must not hold NaN, got {undefined} NaN of {np.size(value)}"
        )


def event_shape(
    caller: str, argument: str, given: Shape, expected: Shape | None, ndims: int
) -> None:
    """Raise unless the last axes of ``given`` are an event of the ``expected`` shape."""
    wanted = f"(*batch, {', '.join(map(str, expected))})" if expected else f"{ndims} event axes"
    if len(given) < ndims or (expected is not None and given[len(given) - ndims :] != expected):
        raise ValueError(f"{caller}: `{argument}` has shape {tuple(given)}, expected {wanted}")


def context(caller: str, value: Any, expected: Shape) -> jax.Array:
    """``value`` as a context array of shape ``(*batch, *expected)``."""
    wanted = "(" + ", ".join(["*batch", *map(str, expected)]) + ")"
    if value is None:
        raise ValueError(f"{caller}: `context` is missing, expected an array of shape {wanted}")
    array = float_array(caller, "context", value)
    if array.shape[max(array.ndim - len(expected), 0) :] != tuple(expected):
        raise ValueError(f"{caller}: `context` has shape {array.shape}, expected {wanted}")
    return array


def joint_batch(caller: str, argument: str, batch: Shape, context_batch: Shape) -> Shape:
    """The shape to which the batch shapes of a value and of its context broadcast."""
    try:
        return jnp.broadcast_shapes(batch, context_batch)
    except ValueError:
        raise ValueError(
            f"{caller}: the batch shapes of `{argument}` {batch} and of the context "
            f"{context_batch} do not broadcast"
        ) from None


def no_context(caller: str, value: Any) -> None:
    """Raise if a layer without a ``context_shape`` was given a context."""
    if value is not None:
        raise ValueError(
            f"{caller}: `context` was given (shape {jnp.shape(value)}), expected None: this layer "
            "was built without `context_shape`"
        )


def key(caller: str, value: Any) -> jax.Array:
    """``value``, if it is a single PRNG key, typed or raw."""
    is_typed = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    if is_typed and value.shape == ():
        return value
    has_dtype = hasattr(value, "dtype") and hasattr(value, "shape")
    if not is_typed and has_dtype and value.dtype == jnp.uint32 and value.shape in ((2,), (4,)):
        return jnp.asarray(value)
    given = f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else repr(value)
    raise TypeError(
        f"{caller}: `key` must be one PRNG key, as from `jax.random.key(0)`, got {given}"
    )


def shape(caller: str, argument: str, value: Any) -> Shape:
    """``value`` as a tuple of positive sizes."""
    sizes = (value,) if _is_integer(value) else value
    if not isinstance(sizes, Sequence) or not all(_is_integer(s) and s > 0 for s in sizes):
        raise ValueError(f"{caller}: `{argument}` must be a tuple of positive ints, got {value!r}")
    return tuple(operator.index(s) for s in sizes)


def integers(caller: str, argument: str, value: Any) -> tuple[int, ...]:
    """``value`` as a tuple of ints."""
    try:
        return tuple(operator.index(item) for item in value)
    except TypeError:
        raise TypeError(
            f"{caller}: `{argument}` must be a sequence of ints, got {value!r}"
        ) from None


def optional_shape(caller: str, argument: str, value: Any) -> Shape | None:
    """``value`` as a tuple of positive sizes, or None."""
    return None if value is None else shape(caller, argument, value)


def sizes(caller: str, argument: str, value: Any) -> Shape:
    """``value`` as a tuple of at least one positive size."""
    result = shape(caller, argument, value)
    if not result:
        raise ValueError(f"{caller}: `{argument}` must hold at least one size, got {value!r}")
    return result


def positive_int(caller: str, argument: str, value: Any, minimum: int = 1) -> int:
    """``value`` as an int of at least ``minimum``."""
    if not _is_integer(value) or value < minimum:
        raise ValueError(
            f"{caller}: `{argument}` must be an int of at least {minimum}, got {value!r}"
        )
    return operator.index(value)


def positive(caller: str, argument: str, value: Any) -> float:
    """``value`` as a positive finite float."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{caller}: `{argument}` must be positive and finite, got {value!r}")
    return number


def function(caller: str, argument: str, value: Any) -> None:
    """Raise unless ``value`` can be called."""
    if not callable(value):
        raise TypeError(f"{caller}: `{argument}` must be a function, got {type(value).__name__}")


def one_of(caller: str, argument: str, value: Any, allowed: Sequence[str]) -> Any:
    """``value``, if it is one of the ``allowed`` names."""
    if value not in allowed:
        raise ValueError(f"{caller}: `{argument}` must be one of {tuple(allowed)}, got {value!r}")
    return value


def _is_integer(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)
