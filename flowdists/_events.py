"""Events of any rank as vectors, and vectors as several events."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Shape = tuple[int, ...]


def batch_of(value: Array, event_shape: Shape) -> Shape:
    """The batch shape of ``(*batch, *event_shape)``."""
    return value.shape[: value.ndim - len(event_shape)]


def flatten_event(value: Array, event_shape: Shape) -> Array:
    """``(*batch, *event_shape)`` as ``(*batch, size)``; the batch may be empty."""
    return value.reshape(*batch_of(value, event_shape), math.prod(event_shape))


def sum_last(value: Array, axes: int) -> Array:
    """The sum over the last ``axes`` axes."""
    return value.sum(tuple(range(value.ndim - axes, value.ndim)))


def split_vector(value: Array, shapes: Sequence[Shape]) -> tuple[Array, ...]:
    """The consecutive pieces of vectors ``(*batch, size)``, each ``(*batch, *shape)``."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    pieces = jnp.split(value, ends.tolist(), axis=-1)
    return tuple(p.reshape(*value.shape[:-1], *s) for p, s in zip(pieces, shapes, strict=True))


def join_vector(pieces: Sequence[Array], shapes: Sequence[Shape]) -> Array:
    """The inverse of :func:`split_vector`; batch shapes broadcast."""
    flat = [flatten_event(piece, shape) for piece, shape in zip(pieces, shapes, strict=True)]
    batch = jnp.broadcast_shapes(*(piece.shape[:-1] for piece in flat))
    return jnp.concatenate([jnp.broadcast_to(p, (*batch, p.shape[-1])) for p in flat], axis=-1)
