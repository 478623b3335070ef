"""The data of a fit: checked, and split into rows to train on and rows held out."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.bijectors.multiscale import multi_scale
from flowdists.distribution import ConditionalFlow, Flow

Array = jax.Array
Shape = tuple[int, ...]
Transform = Callable[[Any, Array], Array]


class Data(NamedTuple):
    """Rows that belong together.

    Attributes:
      x: ``(n, *event_shape)``, or whatever rows ``transform`` makes that of.
      context: ``(n, *context_shape)`` or None.
      weights: ``(n,)`` of mean one, or None.
    """

    x: Array
    context: Array | None
    weights: Array | None

    def take(self, rows: Any) -> Data:
        """The given rows: an index array or a slice."""
        return jax.tree.map(lambda a: a[rows], self)

    def transformed(self, transform: Transform | None, key: Array | None) -> Data:
        """The rows that a flow sees: ``x`` through ``transform``, if there is one."""
        return self if transform is None else self._replace(x=transform(key, self.x))

    @property
    def size(self) -> int:
        """The number of rows."""
        return self.x.shape[0]


def check_data(
    flow: Flow | ConditionalFlow,
    x: Any,
    context: Any,
    weights: Any,
    transform: Transform | None = None,
    prefix: str = "",
) -> Data:
    """Check rows against ``flow``; ``prefix`` stands before the names in error messages."""
    x = _floats(f"{prefix}x", x) if transform is None else _rows(f"{prefix}x", x)
    expected = flow.event_shape
    if transform is None and (x.ndim == 0 or x.shape[1:] != expected):
        wanted = _shape_of_rows("n", expected)
        raise ValueError(f"fit: `{prefix}x` has shape {x.shape}, expected {wanted}")
    if x.shape[0] == 0:
        raise ValueError(f"fit: `{prefix}x` is empty, expected at least one row")
    if jnp.issubdtype(x.dtype, jnp.floating):
        _finite(f"{prefix}x", x)
    if transform is None and multi_scale(flow.bijector) is not None:
        _check.pixels("fit", f"{prefix}x", x)
    if transform is not None:
        _check_transformed(transform, f"{prefix}x", x, expected)
    context = _check_context(flow, context, x.shape[0], f"{prefix}context")
    if weights is not None:
        weights = _check_weights(weights, x.shape[0], f"{prefix}weights")
    return Data(x, context, weights)


def split(
    key: Array,
    flow: Flow | ConditionalFlow,
    data: Data,
    validation: Any,
    transform: Transform | None = None,
) -> tuple[Data, Data | None]:
    """Resolve ``validation``: the rows to train on, shuffled, and those held out, if any."""
    fraction = fraction_of(validation)
    if fraction is not None:
        return _split_fraction(key, data, fraction)
    return normalized(data), held_out_rows(flow, validation, transform)


def fraction_of(validation: Any) -> float | None:
    """``validation`` if it is a fraction; None if it is rows, or nothing.

    Raises:
      ValueError: for a number that is not a fraction, or anything else that is not rows.
    """
    if validation is None or isinstance(validation, tuple) or np.ndim(validation) > 0:
        return None
    is_number = isinstance(validation, numbers.Real) and not isinstance(validation, bool)
    if not is_number or not 0 <= float(validation) < 1:
        raise ValueError(
            "fit: `validation` must be a fraction in [0, 1), an array, a tuple of arrays or None, "
            f"got {validation!r}"
        )
    return float(validation)


def held_out_rows(
    flow: Flow | ConditionalFlow, validation: Any, transform: Transform | None = None
) -> Data | None:
    """The rows that ``validation`` is, checked; None if it is a fraction, or nothing."""
    if validation is None or fraction_of(validation) is not None:
        return None
    parts = validation if isinstance(validation, tuple) else (validation,)
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            "fit: `validation` as a tuple must be (x, context) or (x, context, weights), got "
            f"{len(parts)} entries"
        )
    x, context, weights = (*parts, None, None)[:3]
    return normalized(check_data(flow, x, context, weights, transform, prefix="validation "))


def _split_fraction(key: Array, data: Data, fraction: float) -> tuple[Data, Data | None]:
    if fraction == 0:
        return normalized(data), None
    held_out = max(1, round(fraction * data.size))
    if held_out >= data.size:
        raise ValueError(
            f"fit: `validation` of {fraction} leaves no row to train on out of {data.size}"
        )
    shuffled = jax.random.permutation(key, data.size)
    parts = data.take(shuffled[held_out:]), data.take(shuffled[:held_out])
    return normalized(parts[0]), normalized(parts[1])


def normalized(data: Data) -> Data:
    """``data`` with weights of mean one."""
    if data.weights is None:
        return data
    mean = data.weights.mean()
    if not mean > 0:
        raise ValueError(
            f"fit: `weights` must not all be zero, and those of {data.size} rows (to train on, or "
            "held out) are"
        )
    return data._replace(weights=data.weights / mean)


def _rows(argument: str, value: Any) -> Array:
    try:
        rows = jnp.asarray(value)
    except TypeError as error:
        raise TypeError(
            f"fit: `{argument}` must be an array, got {type(value).__name__}"
        ) from error
    if rows.ndim == 0:
        raise ValueError(f"fit: `{argument}` has shape (), expected (n, ...)")
    return rows


def _check_transformed(transform: Transform, argument: str, x: Array, expected: Shape) -> None:
    given = f"{x.dtype}{list(x.shape)}"
    try:
        result = jax.eval_shape(transform, jax.random.key(0), x)
    except Exception as error:
        error.add_note(f"fit: raised by `transform` for `{argument}` of {given}")
        raise
    what = f"fit: `transform` of `{argument}`, {given},"
    if not isinstance(result, jax.ShapeDtypeStruct):
        raise TypeError(f"{what} must give an array, got {type(result).__name__}")
    if result.shape != (x.shape[0], *expected):
        wanted = _shape_of_rows(str(x.shape[0]), expected)
        raise ValueError(f"{what} must give shape {wanted}, got {result.shape}")
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise TypeError(f"{what} must give a floating-point dtype, got {result.dtype}")


def _shape_of_rows(rows: str, event_shape: Shape) -> str:
    return f"({', '.join([rows, *map(str, event_shape)])})"


def _floats(argument: str, value: Any) -> Array:
    return _check.float_array("fit", argument, value)


def _finite(argument: str, array: Array) -> Array:
    # In NumPy, here and below: dispatched one by one, such small steps would each be compiled.
    bad = ~np.isfinite(np.asarray(array).reshape(array.shape[0], -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"fit: `{argument}` must be finite, got NaN or infinity in {bad.sum()} of "
            f"{array.shape[0]} rows, first in row {bad.argmax()}"
        )
    return array


def _check_context(
    flow: Flow | ConditionalFlow, context: Any, rows: int, argument: str
) -> Array | None:
    if isinstance(flow, Flow):
        if context is not None:
            raise ValueError(
                f"fit: `{argument}` was given (shape {jnp.shape(context)}), but the flow was built "
                "without `context_shape`"
            )
        return None
    expected = (rows, *flow.context_shape)
    if context is None:
        raise ValueError(f"fit: `{argument}` is missing, expected an array of shape {expected}")
    if flow.num_classes is not None and jnp.issubdtype(jnp.result_type(context), jnp.integer):
        context = flow.as_context("fit", context)
    context = _floats(argument, context)
    if context.shape != expected:
        raise ValueError(
            f"fit: `{argument}` has shape {context.shape}, expected {expected}, one for each row"
        )
    return _finite(argument, context)


def _check_weights(weights: Any, rows: int, argument: str) -> Array:
    weights = _floats(argument, weights)
    if weights.shape != (rows,):
        raise ValueError(
            f"fit: `{argument}` has shape {weights.shape}, expected ({rows},), one for each row"
        )
    negative = np.asarray(_finite(argument, weights)) < 0
    if negative.any():
        raise ValueError(
            f"fit: `{argument}` must not be negative, but {negative.sum()} are, first in row "
            f"{negative.argmax()}"
        )
    return weights
