"""The checks around the two methods of a layer: of their inputs and of their results."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from flowdists import _check

Array = jax.Array
Direction = Literal["forward", "inverse"]


def checked(method: Callable[..., Any], direction: Direction) -> Callable[..., Any]:
    """Wrap an author's method: its input arrives as a floating-point array of the right shape."""
    argument = "x" if direction == "forward" else "y"

    @functools.wraps(method)
    def wrapper(self: Any, value: Any, context: Any = None) -> tuple[Array, Array]:
        caller = f"{self.name}.{direction}_and_log_det"
        value = _check.float_array(caller, argument, value)
        source, _ = self._event_sides(direction)
        ndims, ndims_out = self._event_ndims(direction)
        _check.event_shape(caller, argument, value.shape, source, ndims)
        if self.context_shape is None:
            _check.no_context(caller, context)
            return _check_result(caller, method(self, value), ndims_out)
        context = _check.context(caller, context, self.context_shape)
        cut = value.ndim - ndims
        context_batch = context.shape[: context.ndim - len(self.context_shape)]
        joint = _check.joint_batch(caller, argument, value.shape[:cut], context_batch)
        value = jnp.broadcast_to(value, joint + value.shape[cut:])
        return _check_result(caller, method(self, value, context), ndims_out)

    return wrapper


def _check_result(
    caller: str, result: tuple[Array, Array], event_ndims: int
) -> tuple[Array, Array]:
    """Broadcast the log-determinant to the batch shape; NumPyro would sum a scalar wrongly."""
    value, log_det = result
    batch = value.shape[: value.ndim - event_ndims]
    if jnp.shape(log_det) not in (batch, ()):
        raise ValueError(
            f"{caller}: the log-determinant must have the batch shape {batch} or be a scalar, got "
            f"shape {jnp.shape(log_det)}"
        )
    return value, jnp.broadcast_to(log_det, batch)
