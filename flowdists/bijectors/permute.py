"""Reordering the elements of an event."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists._events import flatten_event
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Shape


class Permute(Bijector):
    """Reorder the elements of an event: ``y[i] = x[permutation[i]]`` in flattened order.

    Args:
      permutation: a permutation of ``range(size)``.
      event_shape: shape of one event; ``(size,)`` unless given.

    Raises:
      ValueError: if it is not a permutation of the event's elements.

    >>> import jax.numpy as jnp
    >>> print(Permute((2, 0, 1))(jnp.array([1.0, 2.0, 3.0])))
    [3. 1. 2.]
    """

    permutation: tuple[int, ...] = static()
    event_shape: Shape = static()

    def __init__(
        self, permutation: Sequence[int], event_shape: Sequence[int] | None = None
    ) -> None:
        order = _check.integers("Permute", "permutation", permutation)
        shape = (len(order),) if event_shape is None else event_shape
        self.event_shape = _check.shape("Permute", "event_shape", shape)
        if sorted(order) != list(range(math.prod(self.event_shape))):
            raise ValueError(
                "Permute: `permutation` must be a permutation of "
                f"range({math.prod(self.event_shape)}), got {order}"
            )
        self.permutation = order

    @property
    def is_constant_jacobian(self) -> bool:
        return True

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._reorder(x, np.array(self.permutation))

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._reorder(y, np.argsort(self.permutation))

    def _reorder(self, value: Array, order: np.ndarray) -> tuple[Array, Array]:
        moved = flatten_event(value, self.event_shape)[..., order].reshape(value.shape)
        return moved, jnp.zeros((), value.dtype)


class Reverse(Permute):
    """Reverse the elements of an event, in flattened order.

    Args:
      event_shape: shape of one event.

    >>> print(Reverse((3,))(jnp.array([1.0, 2.0, 3.0])))
    [3. 2. 1.]
    """

    def __init__(self, event_shape: Sequence[int]) -> None:
        shape = _check.shape("Reverse", "event_shape", event_shape)
        super().__init__(range(math.prod(shape))[::-1], shape)
