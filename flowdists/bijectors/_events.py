"""Events of any rank as vectors, and back."""

from __future__ import annotations

import math

import jax

Array = jax.Array
Shape = tuple[int, ...]


def batch_of(value: Array, event_shape: Shape) -> Shape:
    """The batch shape of ``(*batch, *event_shape)``."""
    return value.shape[: value.ndim - len(event_shape)]


def flatten_event(value: Array, event_shape: Shape) -> Array:
    """``(*batch, *event_shape)`` as ``(*batch, size)``; an empty batch is fine too."""
    return value.reshape(*batch_of(value, event_shape), math.prod(event_shape))


def sum_last(value: Array, axes: int) -> Array:
    """The sum over the last ``axes`` axes."""
    return value.sum(tuple(range(value.ndim - axes, value.ndim)))
