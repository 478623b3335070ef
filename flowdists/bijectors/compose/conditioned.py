"""A conditional layer with its context filled in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax.numpy as jnp

from flowdists import _check
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.bijectors.compose.wrapper import Wrapper


class Conditioned(Wrapper):
    """``bijector`` given ``context``: an ordinary bijector without a context.

    The context is a leaf, so that gradients reach it. Its batch axes become batch axes of the map:
    an input is broadcast against them.

    Args:
      bijector: a layer with a ``context_shape``.
      context: ``(*batch, *context_shape)``.

    Raises:
      ValueError: if the layer takes no context, or one of another shape.
      TypeError: if the context is not floating point.

    >>> layer = AffineCoupling(jax.random.key(0), (4,), context_shape=(2,))
    >>> Conditioned(layer, jnp.ones((5, 2)))(jnp.zeros(4)).shape
    (5, 4)
    """

    bijector: Bijector
    context: Array

    def __init__(self, bijector: Bijector, context: Array) -> None:
        if bijector.context_shape is None:
            raise ValueError(
                f"Conditioned: `bijector` must take a context, got {bijector.name} without "
                "`context_shape`"
            )
        self.bijector = bijector
        self.context = _check.context("Conditioned", context, bijector.context_shape)

    @property
    def batch_shape(self) -> Shape:
        """The context's batch shape."""
        return self.context.shape[: self.context.ndim - len(self.bijector.context_shape)]

    @property
    def context_shape(self) -> None:
        return None

    @property
    def composition(self) -> tuple[Bijector, ...]:
        return tuple(_parts_given(self.bijector, self.context))

    def resolve_context(self, context: Array) -> tuple[Bijector, Array]:
        return self, context

    def unconditioned(self) -> tuple[Bijector, Callable[[Bijector], Bijector]]:
        return self.bijector, lambda layer: Conditioned(layer, self.context)

    @property
    def is_constant_jacobian(self) -> bool:
        return False  # it depends on the context

    @property
    def is_constant_log_det(self) -> bool:
        return False

    def forward_shape(self, shape: Shape) -> Shape:
        return self._broadcast(self.bijector.forward_shape(shape), self.event_ndims_out)

    def inverse_shape(self, shape: Shape) -> Shape:
        return self._broadcast(self.bijector.inverse_shape(shape), self.event_ndims_in)

    def _broadcast(self, shape: Shape, event_ndims: int) -> Shape:
        cut = len(shape) - event_ndims
        return jnp.broadcast_shapes(shape[:cut], self.batch_shape) + shape[cut:]

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self.bijector.forward_and_log_det(x, self.context)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self.bijector.inverse_and_log_det(y, self.context)

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        layer, value = self.bijector.data_init(value, self.context, direction)
        return Conditioned(layer, self.context), value


def _parts_given(bijector: Bijector, context: Array) -> Iterator[Bijector]:
    bijector, context = bijector.resolve_context(context)
    for part in bijector.composition:
        if part.context_shape is None:
            yield part
        elif part is bijector:
            yield Conditioned(part, context)
        else:
            yield from _parts_given(part, context)
