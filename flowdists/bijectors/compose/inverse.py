"""The inverse of a bijector, as a bijector."""

from __future__ import annotations

from typing import Any

from numpyro.distributions import constraints

from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.bijectors.compose.chain import as_bijector


class Inverse(Bijector):
    """The inverse of a bijector: ``Inverse(t).forward`` is ``t.inverse``.

    ``t.inv`` makes one. It holds ``t`` itself, so that updated parameters update both.

    Args:
      bijector: the layer to invert, or a NumPyro transform or a distrax bijector.

    Raises:
      TypeError: for any other object.

    >>> layer = Affine(jnp.ones(2), 2 * jnp.ones(2))
    >>> print(Inverse(layer)(layer(jnp.array([3.0, 4.0]))))
    [3. 4.]
    """

    bijector: Bijector

    def __init__(self, bijector: Any) -> None:
        self.bijector = as_bijector(bijector)

    @property
    def event_shape(self) -> Shape | None:
        return self.bijector.event_shape_out

    @property
    def event_shape_out(self) -> Shape | None:
        return self.bijector.event_shape

    @property
    def event_ndims_in(self) -> int:
        return self.bijector.event_ndims_out

    @property
    def event_ndims_out(self) -> int:
        return self.bijector.event_ndims_in

    @property
    def context_shape(self) -> Shape | None:
        return self.bijector.context_shape

    @property
    def cheap_direction(self) -> Direction:
        return opposite(self.bijector.cheap_direction)

    @property
    def is_constant_jacobian(self) -> bool:
        return self.bijector.is_constant_jacobian

    @property
    def is_constant_log_det(self) -> bool:
        return self.bijector.is_constant_log_det

    @property
    def domain(self) -> constraints.Constraint:
        return self.bijector.codomain

    @property
    def codomain(self) -> constraints.Constraint:
        return self.bijector.domain

    @property
    def inv(self) -> Bijector:
        return self.bijector

    @property
    def composition(self) -> tuple[Bijector, ...]:
        parts = self.bijector.composition
        return (self,) if len(parts) == 1 else tuple(part.inv for part in reversed(parts))

    def image_of(
        self, constraint: constraints.Constraint, direction: Direction = "forward"
    ) -> constraints.Constraint | None:
        return self.bijector.image_of(constraint, opposite(direction))

    def forward_shape(self, shape: Shape) -> Shape:
        return self.bijector.inverse_shape(shape)

    def inverse_shape(self, shape: Shape) -> Shape:
        return self.bijector.forward_shape(shape)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self.bijector.inverse_and_log_det(x, context)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self.bijector.forward_and_log_det(y, context)

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        layer, value = self.bijector.data_init(value, context, opposite(direction))
        return Inverse(layer), value


def opposite(direction: Direction) -> Direction:
    """The other direction."""
    return "forward" if direction == "inverse" else "inverse"
