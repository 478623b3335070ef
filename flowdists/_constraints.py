"""NumPyro's constraints as sets: compared, lifted to events, and respected by densities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

Array = jax.Array
Constraint: TypeAlias = constraints.Constraint


def real_constraint(event_ndims: int) -> Constraint:
    """NumPyro's constraint for unbounded events of ``event_ndims`` dimensions."""
    singletons = (constraints.real, constraints.real_vector, constraints.real_matrix)
    if event_ndims < len(singletons):
        return singletons[event_ndims]
    return constraints.independent(constraints.real, event_ndims)


def lift_constraint(constraint: Constraint, event_ndims: int) -> Constraint:
    """``constraint`` on every element of events with ``event_ndims`` axes."""
    extra = event_ndims - constraint.event_dim
    if extra == 0:
        return constraint
    if is_real(constraint):
        return real_constraint(event_ndims)
    return constraints.independent(constraint, extra)


def is_real(constraint: Constraint) -> bool:
    """Whether ``constraint`` is known to hold everywhere."""
    return same(constraint, real_constraint(constraint.event_dim))


def bounds(constraint: Constraint) -> tuple[Any, Any] | None:
    """The lower and the upper bound of each element, or None for a set without such bounds."""
    constraint = _of_elements(constraint)
    if constraint is constraints.real:
        return -math.inf, math.inf
    if isinstance(constraint, constraints.interval):
        return constraint.lower_bound, constraint.upper_bound
    if isinstance(constraint, constraints.less_than):
        return -math.inf, constraint.upper_bound
    # `Image` is such a constraint because NumPyro needs it to be one, but it has no bound.
    is_half_line = isinstance(constraint, constraints.greater_than)
    if is_half_line and constraint.lower_bound is not None:
        return constraint.lower_bound, math.inf
    return None


def same(a: Constraint, b: Constraint) -> bool:
    """Whether two constraints are known to be the same set, up to its boundary.

    Numbers are compared. Arrays are never equal: a traced array has no known value.
    """
    if a.event_dim != b.event_dim:
        return False
    ends = bounds(a), bounds(b)
    pair = ends if None not in ends else (_of_elements(a), _of_elements(b))
    leaves, structures = zip(*map(jax.tree.flatten, pair), strict=True)
    return structures[0] == structures[1] and all(
        is_number(x) and is_number(y) and x == y for x, y in zip(*leaves, strict=True)
    )


def with_own_bounds(constraint: Constraint) -> Constraint:
    """``constraint`` with arrays as bounds, which are never equal for :func:`same`."""
    if bounds(constraint) is None:
        return constraint
    return jax.tree.map(lambda leaf: np.asarray(leaf) if is_number(leaf) else leaf, constraint)


def is_number(leaf: Any) -> bool:
    """Whether ``leaf`` is a Python number, and not a NumPy scalar computed from arrays."""
    return type(leaf) in (int, float)


def replace_outside(constraint: Constraint, value: Array, inside: Array) -> Array:
    """``value``, where a point of ``constraint`` replaces each event that is not ``inside``.

    Without it, such an event could produce a NaN, and the gradient would be NaN even if the result
    is discarded.
    """
    feasible = jnp.asarray(constraint.feasible_like(value), value.dtype)
    return jnp.where(jnp.expand_dims(inside, _last(constraint.event_dim)), value, feasible)


def mask_density(constraint: Constraint, value: Array, inside: Array, log_density: Array) -> Array:
    """``log_density``, but ``-inf`` for events not ``inside``, and NaN for events with a NaN."""
    undefined = jnp.isnan(value).any(_last(constraint.event_dim))
    return jnp.where(undefined, jnp.nan, jnp.where(inside, log_density, -jnp.inf))


def within_bounds(
    constraint: Constraint, value: Array, run: Callable[[Array], tuple[Array, Array]]
) -> tuple[Array, Array]:
    """``run(value)`` inside the bounds of ``constraint``; outside, a log-determinant of ``-inf``.

    The bounds themselves count as outside. A set without elementwise bounds (a simplex, for
    example) is not checked: its points satisfy it only up to rounding, and a check would turn
    rounding errors into a density of zero.
    """
    if bounds(constraint) is None or is_real(constraint):
        return run(value)
    unbounded = jax.lax.stop_gradient(biject_to(constraint).inv(value))
    inside = constraint(value) & jnp.isfinite(unbounded).all(_last(constraint.event_dim))
    return only_inside(constraint, value, inside, run)


def only_inside(
    constraint: Constraint,
    value: Array,
    inside: Array,
    run: Callable[[Array], tuple[Array, Array]],
) -> tuple[Array, Array]:
    """``run(value)`` for events that are ``inside``; for others a log-determinant of ``-inf``.

    ``run`` sees a point of ``constraint`` in place of the others, so that its result and its
    gradient are finite. NaN is neither inside nor outside: it stays NaN.
    """
    inside = inside | jnp.isnan(value).any(_last(constraint.event_dim))
    result, log_det = run(replace_outside(constraint, value, inside))
    return result, jnp.where(inside, log_det, -jnp.inf)


def _of_elements(constraint: Constraint) -> Constraint:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _last(axes: int) -> tuple[int, ...]:
    return tuple(range(-axes, 0))
