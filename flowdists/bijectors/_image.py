"""Where a bijector takes a set: the supports of flows."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import ComposeTransform

from flowdists.bijectors.base import Array, Bijector, lift_constraint, real_constraint
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.conditioned import Conditioned
from flowdists.bijectors.embedded import Embedded
from flowdists.bijectors.foreign import Foreign, as_bijector
from flowdists.bijectors.inverse import Inverse
from flowdists.bijectors.repeat import Repeat


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

    # An image may depend on other variables, and must then be computed anew for each draw. NumPyro
    # does so for half-lines and intervals alone, and only if their bounds are no numbers.
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
        for layer in reversed(layers_of(self.bijector)):
            # What is not in a layer's codomain has no inverse, or one that looks like any other.
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
    """The image of ``constraint`` under ``bijector``, in NumPyro's own terms where it has any.

    It has where each layer's domain is where the layers before it lead to, or these lead
    everywhere: then the codomain of the last layer is the image. What is decided here is the same
    in and out of a trace, so that ``biject_to`` is one and the same map.
    """
    known, rest = _follow(constraint, layers_of(bijector))
    return Image(known, rest[0] if len(rest) == 1 else Chain(rest)) if rest else known


def with_own_bounds(constraint: constraints.Constraint) -> constraints.Constraint:
    """``constraint`` with arrays for bounds, which count as equal to no others."""
    if bounds(constraint) is None:
        return constraint
    return jax.tree.map(lambda leaf: np.asarray(leaf) if _is_number(leaf) else leaf, constraint)


def layers_of(bijector: Bijector) -> tuple[Bijector, ...]:
    """The layers of nested chains, base side first."""
    if isinstance(bijector, Chain):
        return tuple(layer for part in bijector.layers for layer in layers_of(part))
    if isinstance(bijector, Inverse):
        layers = layers_of(bijector.bijector)
        return tuple(layer.inv for layer in reversed(layers)) if len(layers) > 1 else (bijector,)
    if isinstance(bijector, Conditioned):
        if isinstance(bijector.bijector, Embedded):
            return layers_of(bijector.bijector.condition(bijector.context))
        return tuple(
            layer if layer.context_shape is None else Conditioned(layer, bijector.context)
            for layer in layers_of(bijector.bijector)
        )
    if isinstance(bijector, Foreign) and isinstance(bijector.transform, ComposeTransform):
        parts = (as_bijector(part) for part in bijector.transform.parts)
        return tuple(layer for part in parts for layer in layers_of(part))
    return (bijector,)


def foreign_in(layer: Bijector) -> Foreign | None:
    """What ``layer`` is if it is somebody else's, turned around or not."""
    inner = layer.bijector if isinstance(layer, Inverse) else layer
    return inner if isinstance(inner, Foreign) else None


def bounds(constraint: constraints.Constraint) -> tuple[Any, Any] | None:
    """The bounds of each element, if these are all there is to ``constraint``."""
    constraint = _of_elements(constraint)
    if isinstance(constraint, Image):
        return None
    if constraint is constraints.real:
        return -math.inf, math.inf
    if isinstance(constraint, constraints.interval):
        return constraint.lower_bound, constraint.upper_bound
    if isinstance(constraint, constraints.greater_than):
        return constraint.lower_bound, math.inf
    if isinstance(constraint, constraints.less_than):
        return -math.inf, constraint.upper_bound
    return None


def same(a: constraints.Constraint, b: constraints.Constraint) -> bool:
    """Whether two constraints surely are the same set but for its boundary.

    Numbers are compared, arrays never equal: traced, their values would not be known.
    """
    if a.event_dim != b.event_dim:
        return False
    ends = bounds(a), bounds(b)
    pair = ends if None not in ends else (_of_elements(a), _of_elements(b))
    leaves, structures = zip(*map(jax.tree.flatten, pair), strict=True)
    return structures[0] == structures[1] and all(
        _is_number(x) and _is_number(y) and x == y for x, y in zip(*leaves, strict=True)
    )


def _follow(
    constraint: constraints.Constraint, layers: tuple[Bijector, ...]
) -> tuple[constraints.Constraint, tuple[Bijector, ...]]:
    """The image under as many layers as keep it known, and the layers that are left."""
    for i, layer in enumerate(layers):
        known = _codomain_if_filled(constraint, layer)
        if known is None:
            return constraint, layers[i:]
        constraint = known
    return constraint, ()


def _codomain_if_filled(
    constraint: constraints.Constraint, layer: Bijector
) -> constraints.Constraint | None:
    """The codomain of ``layer``, if it is known, and known to be the image of ``constraint``."""
    while isinstance(layer, Conditioned):
        layer = layer.bijector
    if isinstance(layer, Repeat):
        once, rest = _follow(constraint, layers_of(layer._inner))
        twice, more = _follow(once, layers_of(layer._inner))
        return once if not rest and not more and same(once, twice) else None
    foreign = foreign_in(layer)
    if foreign is not None and foreign._is_distrax and not foreign.is_constant_jacobian:
        return None  # distrax does not say where a map leads to; an affine one leads everywhere
    event_dim = constraint.event_dim
    domain, codomain = _sides(layer, foreign)
    filling = (lift_constraint(domain, event_dim), real_constraint(event_dim))
    if not any(same(constraint, each) for each in filling):
        return None
    if not all(map(_is_number, jax.tree.leaves(codomain))):
        return None  # it may depend on other variables
    return lift_constraint(codomain, event_dim + layer.event_ndims_out - layer.event_ndims_in)


def _sides(
    layer: Bijector, foreign: Foreign | None
) -> tuple[constraints.Constraint, constraints.Constraint]:
    """Domain and codomain, with numbers for what NumPyro computes from numbers alone."""
    if foreign is None or not all(map(_is_number, jax.tree.leaves(foreign.transform))):
        return layer.domain, layer.codomain
    with jax.ensure_compile_time_eval():
        return jax.tree.map(
            lambda leaf: leaf if _is_number(leaf) else float(leaf), (layer.domain, layer.codomain)
        )


def _of_elements(constraint: constraints.Constraint) -> constraints.Constraint:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _is_number(leaf: Any) -> bool:
    return type(leaf) in (int, float)  # not NumPy's, which come of arithmetic with arrays
