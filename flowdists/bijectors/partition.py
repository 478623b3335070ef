"""Masks: which part of an event a coupling layer changes, and which part it keeps.

A partition is static configuration. It splits an event into a kept and a changed part and merges
them again. Named masks are resolved here, from the name and the event shape.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists._events import flatten_event

Array = jax.Array
Shape = tuple[int, ...]
Mask = str | Any

MASKS = ("alternating", "checkerboard", "half", "channel")


@dataclasses.dataclass(frozen=True)
class Partition:
    """A split of events into kept and changed elements, in flattened order.

    Attributes:
      event_shape: shape of the whole event.
      changed: flat indices of the elements that change, ascending.
    """

    event_shape: Shape
    changed: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """Flat indices of the elements that stay as they are."""
        return tuple(sorted(set(range(math.prod(self.event_shape))) - set(self.changed)))

    def split(self, value: Array) -> tuple[Array, Array]:
        """``(*batch, *event_shape)`` to the kept and the changed part, ``(*batch, size)`` each."""
        flat = flatten_event(value, self.event_shape)
        return _take(flat, self.kept), _take(flat, self.changed)

    def sum_changed(self, log_slope: Array) -> Array:
        """The sum of the log-slopes of the changed part, of shape ``batch``."""
        return log_slope.sum(axis=-1)

    def merge(self, kept: Array, changed: Array) -> Array:
        """The inverse of :meth:`split`."""
        order = np.argsort(np.array(self.kept + self.changed))
        flat = _take(jnp.concatenate([kept, changed], axis=-1), tuple(order.tolist()))
        return flat.reshape(*flat.shape[:-1], *self.event_shape)


def make_partition(caller: str, event_shape: Shape, mask: Mask, flip: bool) -> Partition:
    """Resolve a mask for events of ``event_shape``.

    Args:
      caller: name of the layer, for error messages.
      event_shape: shape of one event.
      mask: "alternating" or "checkerboard" (two names for one mask: elements whose indices sum to
        an odd number change), "half" (the second half in flattened order changes), "channel" (the
        second half of the last axis changes), or an array of 0 and 1 of the event shape, where 1
        marks an element that is kept.
      flip: exchange the two parts.

    Raises:
      ValueError: if the mask is unknown, has another shape or other values, keeps or changes
        nothing, or the event has fewer than two elements.
    """
    size = math.prod(event_shape)
    if size < 2:
        raise ValueError(
            f"{caller}: `event_shape` must have at least 2 elements, one to keep and one to "
            f"change, got {event_shape}; an autoregressive layer works in 1 dimension"
        )
    changes = _changes(caller, event_shape, mask) ^ flip
    if changes.all() or not changes.any():
        raise ValueError(
            f"{caller}: `mask` must keep at least one element and change at least one, got "
            f"{int(changes.sum())} changed of {size}"
        )
    return Partition(event_shape, tuple(np.flatnonzero(changes).tolist()))


def _changes(caller: str, event_shape: Shape, mask: Mask) -> np.ndarray:
    if not isinstance(mask, str):
        given = np.asarray(mask)
        if given.shape != event_shape or not np.isin(given, (0, 1)).all():
            raise ValueError(
                f"{caller}: `mask` must be an array of 0 and 1 of shape {event_shape}, got shape "
                f"{given.shape} with values {np.unique(given)[:5].tolist()}"
            )
        return given == 0
    _check.one_of(caller, "mask", mask, MASKS)
    if mask in ("alternating", "checkerboard"):
        return np.indices(event_shape).sum(axis=0) % 2 == 1
    axis_size = event_shape[-1] if mask == "channel" else math.prod(event_shape)
    if axis_size < 2:
        raise ValueError(
            f"{caller}: `mask`='channel' must have at least 2 channels to split, got event shape "
            f"{event_shape}"
        )
    second_half = np.arange(axis_size) >= axis_size // 2
    if mask == "channel":
        return np.broadcast_to(second_half, event_shape)
    return second_half.reshape(event_shape)


def _take(flat: Array, indices: tuple[int, ...]) -> Array:
    """Static gather along the last axis; a slice where the indices are evenly spaced."""
    steps = set(np.diff(indices).tolist())
    if len(indices) == 1 or (len(steps) == 1 and min(steps) > 0):
        step = steps.pop() if steps else 1
        return flat[..., indices[0] : indices[-1] + 1 : step]
    return flat[..., np.array(indices)]
