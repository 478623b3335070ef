"""Bijectors side by side, each on its own section of a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from numpyro.distributions import biject_to, constraints

from flowdists import _check
from flowdists._constraints import is_real, lift_constraint
from flowdists._events import split_vector, sum_last
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.bijectors.compose.chain import as_bijector


class Concatenated(Bijector):
    """A bijector for each of the consecutive parts of a vector; the log-determinants add up.

    The vector holds the events of the parts, flattened and concatenated. With such a layer, the
    support of a flow can combine a simplex, a half-line and a matrix.

    Args:
      parts: bijectors without a context, of this library, NumPyro or distrax.
      shapes: the shape of each part's event on the base side. If it has more axes than the part
        acts on, the part is applied along the others.

    Raises:
      TypeError: if a part is not a bijector.
      ValueError: if there is no part, a part takes a context, or the shapes do not fit.

    >>> from numpyro.distributions.transforms import ExpTransform
    >>> layer = Concatenated([Affine(jnp.ones(2), jnp.ones(2)), ExpTransform()], [(2,), ()])
    >>> print(layer(jnp.zeros(3)))
    [1. 1. 1.]
    """

    parts: tuple[Bijector, ...]
    shapes: tuple[Shape, ...] = static()

    def __init__(self, parts: Sequence[Any], shapes: Sequence[Sequence[int]]) -> None:
        self.parts = tuple(as_bijector(part) for part in parts)
        self.shapes = tuple(_check.shape("Concatenated", "shapes", shape) for shape in shapes)
        if not self.parts or len(self.parts) != len(self.shapes):
            raise ValueError(
                "Concatenated: `parts` and `shapes` must have one entry for each part, at least "
                f"one, got {len(self.parts)} and {len(self.shapes)}"
            )
        for part, shape in zip(self.parts, self.shapes, strict=True):
            if part.context_shape is not None:
                raise ValueError(
                    f"Concatenated: `parts` must take no context, but {part.name} does"
                )
            part.forward_shape(shape)

    def _part_shapes(self, direction: Direction) -> tuple[Shape, ...]:
        if direction == "forward":
            return self.shapes
        pairs = zip(self.parts, self.shapes, strict=True)
        return tuple(part.forward_shape(shape) for part, shape in pairs)

    @property
    def event_shape(self) -> Shape:
        return (sum(map(math.prod, self.shapes)),)

    @property
    def event_shape_out(self) -> Shape:
        return (sum(map(math.prod, self._part_shapes("inverse"))),)

    @property
    def domain(self) -> constraints.Constraint:
        return _side([part.domain for part in self.parts], self._part_shapes("forward"))

    @property
    def codomain(self) -> constraints.Constraint:
        return _side([part.codomain for part in self.parts], self._part_shapes("inverse"))

    @property
    def is_constant_jacobian(self) -> bool:
        return all(part.is_constant_jacobian for part in self.parts)

    @property
    def is_constant_log_det(self) -> bool:
        return all(part.is_constant_log_det for part in self.parts)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._apply("forward", x)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._apply("inverse", y)

    def _apply(self, direction: Direction, value: Array) -> tuple[Array, Array]:
        batch = value.shape[:-1]
        results, total = [], jnp.zeros(batch, value.dtype)
        pieces = split_vector(value, self._part_shapes(direction))
        for part, piece in zip(self.parts, pieces, strict=True):
            result, log_det = getattr(part, f"{direction}_and_log_det")(piece)
            results.append(result.reshape(*batch, -1))
            total = total + sum_last(log_det, log_det.ndim - len(batch))
        return jnp.concatenate(results, axis=-1), total


class Concatenation(constraints.Constraint):
    """Vectors whose consecutive parts each satisfy a constraint.

    Args:
      parts: a constraint for each part.
      shapes: the shape of each part.
    """

    event_dim = 1

    def __init__(self, parts: Sequence[constraints.Constraint], shapes: Sequence[Shape]) -> None:
        self.parts = tuple(parts)
        self.shapes = tuple(shapes)

    def __call__(self, x: Any) -> Array:
        """Whether each vector is inside, of shape ``batch``; NaN is not."""
        pieces = split_vector(jnp.asarray(x), self.shapes)
        lifted = [lift_constraint(c, len(s)) for c, s in zip(self.parts, self.shapes, strict=True)]
        return jnp.stack([c(piece) for c, piece in zip(lifted, pieces, strict=True)]).all(axis=0)

    def feasible_like(self, prototype: Array) -> Array:
        """A point inside, of the shape and dtype of ``prototype``."""
        pieces = split_vector(jnp.asarray(prototype), self.shapes)
        points = [c.feasible_like(piece) for c, piece in zip(self.parts, pieces, strict=True)]
        flat = [jnp.reshape(p, (*jnp.shape(prototype)[:-1], -1)) for p in points]
        return jnp.concatenate(flat, axis=-1).astype(jnp.result_type(prototype))

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self.parts,), (("parts",), {"shapes": self.shapes})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Concatenation):
            return False
        return self.shapes == other.shapes and self.parts == other.parts

    def __repr__(self) -> str:
        return f"Concatenation({list(self.parts)!r})"


@biject_to.register(Concatenation)
def _biject_to_concatenation(constraint: Concatenation) -> Bijector:
    parts = [as_bijector(biject_to(part)) for part in constraint.parts]
    pairs = zip(parts, constraint.shapes, strict=True)
    return Concatenated(parts, [part.inverse_shape(shape) for part, shape in pairs])


def _side(
    parts: Sequence[constraints.Constraint], shapes: tuple[Shape, ...]
) -> constraints.Constraint:
    if all(map(is_real, parts)):
        return constraints.real_vector
    return Concatenation(parts, shapes)
