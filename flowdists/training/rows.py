"""Rows of data, checked against the flow that is trained on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.flow import Flow
from flowdists.training.parameters import AnyFlow

Array = jax.Array
Shape = tuple[int, ...]
Transform = Callable[[Any, Array], Array]


class Rows(NamedTuple):
    """Rows that belong together.

    Attributes:
      x: ``(n, *event_shape)``, or the rows that ``transform`` turns into that.
      context: ``(n, *context_shape)`` or None.
      weights: ``(n,)`` or None.
    """

    x: Array
    context: Array | None
    weights: Array | None

    @property
    def size(self) -> int:
        """The number of rows."""
        return self.x.shape[0]

    def take(self, rows: Any) -> Rows:
        """The given rows: an index array or a slice."""
        return jax.tree.map(lambda a: a[rows], self)

    def transformed(self, transform: Transform | None, key: Array | None) -> Rows:
        """The rows as the flow sees them: ``x`` after ``transform``, if there is one."""
        return self if transform is None else self._replace(x=transform(key, self.x))

    def normalized(self) -> Rows:
        """The rows with weights of mean one.

        Raises:
          ValueError: if all weights are zero.
        """
        if self.weights is None:
            return self
        mean = self.weights.mean()
        if not mean > 0:
            raise ValueError(
                f"fit: `weights` must not all be zero, and those of {self.size} rows (to train on, "
                "or held out) are"
            )
        return self._replace(weights=self.weights / mean)


def check_rows(
    flow: AnyFlow,
    transform: Transform | None,
    x: Any,
    context: Any = None,
    weights: Any = None,
    prefix: str = "",
) -> Rows:
    """Check that ``flow`` can be trained on these rows.

    Args:
      flow: the flow.
      transform: ``(key, x) -> x``, applied to the rows before the flow sees them, or None.
      x: as in :func:`~flowdists.fit`.
      context: as in :func:`~flowdists.fit`.
      weights: as in :func:`~flowdists.fit`.
      prefix: stands before the names of the arguments in error messages.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if one has the wrong shape or values.
    """
    x = _check_x(flow, transform, f"{prefix}x", x)
    context = _check_context(flow, f"{prefix}context", context, x.shape[0])
    if weights is not None:
        weights = _check_weights(f"{prefix}weights", weights, x.shape[0])
    return Rows(x, context, weights)


def _check_x(flow: AnyFlow, transform: Transform | None, argument: str, value: Any) -> Array:
    if transform is None:
        flow.bijector.check_data("fit", argument, value)
        x = _check.float_array("fit", argument, value)
        wanted = ", ".join(["n", *map(str, flow.event_shape)])
    else:
        x = _array(argument, value)
        wanted = "n, ..."
    if x.ndim == 0 or (transform is None and x.shape[1:] != flow.event_shape):
        raise ValueError(f"fit: `{argument}` has shape {x.shape}, expected ({wanted})")
    if x.shape[0] == 0:
        raise ValueError(f"fit: `{argument}` is empty, expected at least one row")
    if jnp.issubdtype(x.dtype, jnp.floating):
        _check_finite(argument, x)
    if transform is not None:
        _check_transformed(flow, transform, argument, x)
    return x


def _array(argument: str, value: Any) -> Array:
    try:
        return jnp.asarray(value)
    except TypeError as error:
        raise TypeError(
            f"fit: `{argument}` must be an array, got {type(value).__name__}"
        ) from error


def _check_transformed(flow: AnyFlow, transform: Transform, argument: str, x: Array) -> None:
    given = f"{x.dtype}{list(x.shape)}"
    try:
        result = jax.eval_shape(transform, jax.random.key(0), x)
    except Exception as error:
        error.add_note(f"fit: raised by `transform` for `{argument}` of {given}")
        raise
    what = f"fit: `transform` of `{argument}`, {given},"
    expected = (x.shape[0], *flow.event_shape)
    if not isinstance(result, jax.ShapeDtypeStruct):
        raise TypeError(f"{what} must give an array, got {type(result).__name__}")
    if result.shape != expected:
        raise ValueError(f"{what} must give shape {expected}, got {result.shape}")
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise TypeError(f"{what} must give a floating-point dtype, got {result.dtype}")


def _check_context(flow: AnyFlow, argument: str, context: Any, size: int) -> Array | None:
    if isinstance(flow, Flow):
        if context is not None:
            raise ValueError(
                f"fit: `{argument}` was given (shape {jnp.shape(context)}), but the flow was built "
                "without `context_shape`"
            )
        return None
    expected = (size, *flow.context_shape)
    if context is None:
        raise ValueError(f"fit: `{argument}` is missing, expected an array of shape {expected}")
    if flow.num_classes is not None and jnp.issubdtype(jnp.result_type(context), jnp.integer):
        context = flow.as_context("fit", context)
    return _check_one_per_row(argument, context, expected)


def _check_weights(argument: str, weights: Any, size: int) -> Array:
    weights = _check_one_per_row(argument, weights, (size,))
    negative = np.asarray(weights) < 0
    if negative.any():
        raise ValueError(
            f"fit: `{argument}` must not be negative, but {negative.sum()} are, first in row "
            f"{negative.argmax()}"
        )
    return weights


def _check_one_per_row(argument: str, value: Any, expected: Shape) -> Array:
    array = _check.float_array("fit", argument, value)
    if array.shape != expected:
        raise ValueError(
            f"fit: `{argument}` has shape {array.shape}, expected {expected}, one for each row"
        )
    _check_finite(argument, array)
    return array


def _check_finite(argument: str, array: Array) -> None:
    # In NumPy, because JAX would compile each of these small steps.
    bad = ~np.isfinite(np.asarray(array).reshape(array.shape[0], -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"fit: `{argument}` must be finite, got NaN or infinity in {bad.sum()} of "
            f"{array.shape[0]} rows, first in row {bad.argmax()}"
        )
