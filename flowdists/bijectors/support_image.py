"""The image of a set under a bijector: the supports of flows."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import ComposeTransform

from flowdists._constraints import Array, lift_constraint
from flowdists.bijectors.base import Bijector
from flowdists.bijectors.compose.chain import Chain


class Image(constraints.greater_than):
    """The image of a set under a bijector: a NumPyro constraint.

    NumPyro's ``biject_to`` maps unbounded space onto the set and then onto its image, so that
    samplers and guides stay inside.

    Args:
      base_constraint: the set, a NumPyro constraint on the events that ``bijector`` takes.
      bijector: a bijector that takes no context.

    >>> from numpyro.distributions import biject_to, constraints
    >>> doubled = Image(constraints.unit_interval, Affine(jnp.array(0.0), jnp.array(2.0)))
    >>> print(doubled(jnp.array([-0.5, 1.5])), biject_to(doubled)(0.0))
    [False  True] 1.0
    """

    # An image may depend on other variables, and must then be computed again for each draw. NumPyro
    # does so only for half-lines and intervals whose bounds are not numbers.
    lower_bound = None

    def __init__(self, base_constraint: constraints.Constraint, bijector: Bijector) -> None:
        self.base_constraint = base_constraint
        self.bijector = bijector

    @property
    def event_dim(self) -> int:
        gained = self.bijector.event_ndims_out - self.bijector.event_ndims_in
        return self.base_constraint.event_dim + gained

    def __call__(self, x: Any) -> Array:
        """Whether each event lies in the image, of shape ``batch``; NaN does not."""
        x = jnp.asarray(x, jnp.result_type(x, float))
        inside, event_ndims = True, self.event_dim
        for layer in reversed(self.bijector.composition):
            # Outside of a layer's codomain the inverse is undefined, or looks valid.
            inside = inside & lift_constraint(layer.codomain, event_ndims)(x)
            event_ndims += layer.event_ndims_in - layer.event_ndims_out
            x = layer.inverse(x)
        return inside & self.base_constraint(x)

    def feasible_like(self, prototype: Array) -> Array:
        """A point of the image, of the shape and dtype of ``prototype``."""
        shape = self.bijector.inverse_shape(jnp.shape(prototype))
        point = self.base_constraint.feasible_like(jnp.zeros(shape, jnp.result_type(prototype)))
        return self.bijector(point).astype(jnp.result_type(prototype))

    def tree_flatten(self) -> tuple[Any, Any]:
        names = ("base_constraint", "bijector")
        return (self.base_constraint, self.bijector), (names, {})

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether ``other`` is the image of an equal set under an equal bijector."""
        if not isinstance(other, Image) or self.base_constraint != other.base_constraint:
            return False
        return self.bijector.eq(other.bijector, static=static)

    def __eq__(self, other: object) -> bool:
        return bool(self.eq(other, static=True))

    def __repr__(self) -> str:
        return f"Image({self.base_constraint!r}, {self.bijector.name})"


@biject_to.register(Image)
def _biject_to_image(constraint: Image) -> ComposeTransform:
    return ComposeTransform([biject_to(constraint.base_constraint), constraint.bijector])


def image(constraint: constraints.Constraint, bijector: Bijector) -> constraints.Constraint:
    """The image of ``constraint`` under ``bijector``, as one of NumPyro's constraints if possible.

    It is possible if each layer knows the image of the set that reaches it: then the last of these
    is the result. Otherwise it is an :class:`Image`. The decision is the same inside and outside of
    a trace, so that ``biject_to`` is always the same map.
    """
    parts = bijector.composition
    for i, part in enumerate(parts):
        known = part.image_of(constraint)
        if known is None:
            rest = parts[i:]
            return Image(constraint, rest[0] if len(rest) == 1 else Chain(rest))
        constraint = known
    return constraint
