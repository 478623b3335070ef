"""Which elements of a bijector's input depend on which of its output, for any parameters."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from flowdists.bijectors.base import Bijector, Shape
from flowdists.bijectors.partition import Partition

# Distances of the probed points from zero. Splines act only within their bounds, so some points
# must be small. Parameters are smaller still, so that layers keep the signs of a point.
_SCALES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
_PARAMETERS = 0.1

# If all numbers are positive, every unit of a ReLU network is active, and nothing cancels. Numbers
# of both signs are for other kinds of networks.
_SIGNS = (np.array([1.0]), *[np.array([-1.0, 1.0])] * 3)


class Dependence(NamedTuple):
    """The structure of a layer that maps vectors to vectors of the same length.

    Attributes:
      pattern: ``pattern[i, j]`` says whether element ``i`` of ``inverse(y)`` depends on ``y[j]``.
      is_product: whether the codomain is a set for each element, independent of the others.
    """

    pattern: np.ndarray
    is_product: bool


def dependence(layer: Bijector, size: int) -> Dependence:
    """Find the structure of ``layer``, for vectors of ``size`` elements.

    Random parameters replace those of the layer, which may be traced: a new layer, for example, is
    the identity, in which no element depends on another. Where there is no dependence at any
    parameters (a masked weight, the empty half of a matrix), the Jacobian is exactly zero.

    Raises:
      ValueError: if the inverse is finite at none of the random parameters.
    """
    leaves, structure = jax.tree.flatten(layer)
    found = _probe(structure, tuple(jnp.shape(leaf) for leaf in leaves), size)
    if found is None:
        raise ValueError(
            f"the structure of {layer.name} cannot be found: with random parameters its inverse "
            "is not finite"
        )
    return found


@functools.lru_cache(maxsize=256)
def _probe(structure: Any, shapes: tuple[Shape, ...], size: int) -> Dependence | None:
    def jacobians(leaves: list[Any], free: Any) -> Any:
        layer = jax.tree.unflatten(structure, leaves)
        onto = biject_to(layer.codomain)
        return jax.jacrev(layer.inverse)(onto(free)), jax.jacrev(onto)(free)

    # A compiled program also runs while JAX traces: the flow may be traced, but its structure is
    # known.
    *inputs, free = (jax.ShapeDtypeStruct(shape, np.float32) for shape in (*shapes, (size,)))
    compiled = jax.jit(jacobians).lower(inputs, free).compile()
    generator = np.random.default_rng(0)

    def draw(scale: float, shape: Shape, signs: np.ndarray) -> np.ndarray:
        magnitudes = scale * generator.uniform(0.1, 0.9, shape)
        return np.asarray(magnitudes * generator.choice(signs, shape), np.float32)

    pattern = np.zeros((size, size), bool)
    coupled, seen = pattern, False
    for scale, signs in itertools.product(_SCALES, _SIGNS):
        leaves = [draw(_PARAMETERS * scale / _spread(shape), shape, signs) for shape in shapes]
        by_y, by_free = map(np.asarray, compiled(leaves, draw(scale, (size,), signs)))
        if by_free.shape != pattern.shape:
            return Dependence(np.ones_like(pattern), is_product=False)
        if np.isfinite(by_y).all():
            pattern, coupled, seen = pattern | (by_y != 0), coupled | (by_free != 0), True
    if not seen:
        return None
    return Dependence(pattern, is_product=not coupled[~np.eye(size, dtype=bool)].any())


def _spread(shape: Shape) -> float:
    """By what factor a random sum over an axis of a matrix is larger than one of its terms."""
    return max((1, *shape[-2:])) ** 0.5


def follow(patterns: Sequence[np.ndarray], observed: Sequence[int]) -> list[Partition] | None:
    """Follow known elements from the data through the inverse of each layer to the base.

    Args:
      patterns: of layers, data side first.
      observed: the elements that are known at the data side.

    Returns:
      Partitions whose kept elements are known, data side first, one more than there are layers; or
      None if, after some layer, fewer elements are functions of ``observed`` alone.
    """
    size = len(patterns[0])
    partitions = [Partition((size,), tuple(sorted(set(range(size)) - set(observed))))]
    for pattern in patterns:
        changed = np.flatnonzero(pattern[:, list(partitions[-1].changed)].any(axis=1))
        if len(changed) != len(partitions[-1].changed):
            return None
        partitions.append(Partition((size,), tuple(changed.tolist())))
    return partitions


def compose(patterns: Sequence[np.ndarray]) -> np.ndarray:
    """The pattern of a chain from those of its layers, data side first."""
    total = np.eye(len(patterns[0]), dtype=np.float32)
    for pattern in patterns:
        total = (pattern.astype(np.float32) @ total > 0).astype(np.float32)
    return total > 0


def elimination_order(pattern: np.ndarray) -> dict[int, int]:
    """Pairs ``j: i`` where element ``i`` depends only on ``j`` and on the keys before ``j``.

    If the pattern is triangular in some order, every element is in a pair.
    """
    left, counts, pairs = pattern.copy(), pattern.sum(axis=1), {}
    while (singles := np.flatnonzero(counts == 1)).size:
        i = int(singles[0])
        j = int(np.flatnonzero(left[i])[0])
        pairs[j] = i
        counts = counts - left[:, j]
        left[:, j] = False
    return pairs


def closure(pattern: np.ndarray, observed: Sequence[int]) -> list[int]:
    """``observed`` and what must be known with it, so that equally many latents are known."""
    pairs = elimination_order(pattern)
    needed = set(observed)
    if not needed <= pairs.keys():
        return list(range(len(pattern)))
    for j, i in reversed(pairs.items()):
        if j in needed:
            needed |= set(np.flatnonzero(pattern[i]).tolist())
    return sorted(needed)
