"""Maps from unbounded space onto the support of a distribution, built on NumPyro's registry."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

from flowdists.bijectors.base import Array, Bijector
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.conditioned import Conditioned
from flowdists.bijectors.foreign import Foreign

_INTERVALS = (
    constraints.interval,
    constraints.open_interval,
    constraints.greater_than,
    constraints.greater_than_eq,
    constraints.less_than,
    constraints.less_than_eq,
    type(constraints.positive),
    type(constraints.nonnegative),
    type(constraints.unit_interval),
)


def to_support(constraint: constraints.Constraint) -> Foreign:
    """The bijector from unbounded space onto ``constraint``, as NumPyro's ``biject_to`` has it.

    The last layer of a flow gives the flow its support. The bounds are configuration, never
    trained, unless they are traced (a support that depends on other variables).

    Args:
      constraint: a NumPyro constraint, such as ``constraints.interval(0.0, 1.0)``.

    Returns:
      A :class:`~flowdists.Bijector` without leaves.

    Raises:
      TypeError: if it is not a constraint.
      NotImplementedError: if NumPyro knows no bijection for it (a discrete support).

    >>> import jax.numpy as jnp
    >>> from numpyro.distributions import constraints
    >>> print(to_support(constraints.interval(-1.0, 3.0))(jnp.array(0.0)))
    1.0
    """
    if not isinstance(constraint, constraints.Constraint):
        raise TypeError(
            "to_support: `constraint` must be a numpyro constraint, got "
            f"{type(constraint).__name__}"
        )
    return Foreign(biject_to(jax.tree.map(_as_configuration, constraint)))


def is_bounded(bijector: Bijector) -> bool:
    """Whether the last layer maps elementwise onto an interval, outside of which it has no inverse.

    Other constraints (a simplex, say) are not looked at: they hold only up to rounding, and what
    is right for a bound would turn that into a density of zero.
    """
    if isinstance(bijector, Chain):
        return is_bounded(bijector.layers[-1])
    if isinstance(bijector, Conditioned):
        return is_bounded(bijector.bijector)
    if not isinstance(bijector, Foreign):
        return False
    constraint = bijector.codomain
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return isinstance(constraint, _INTERVALS)


def strictly_inside(constraint: constraints.Constraint, value: Array) -> Array:
    """Whether each event lies inside ``constraint`` and not at its bounds; of shape ``batch``."""
    unbounded = jax.lax.stop_gradient(biject_to(constraint).inv(value))
    axes = tuple(range(value.ndim - constraint.event_dim, unbounded.ndim))
    return constraint(value) & jnp.isfinite(unbounded).all(axes)


def interior_point(constraint: constraints.Constraint, like: Array) -> Array:
    """A point inside ``constraint``, of the shape and dtype of ``like``."""
    transform = biject_to(constraint)
    return transform(jnp.zeros(transform.inverse_shape(like.shape), like.dtype))


def _as_configuration(bound: object) -> object:
    is_concrete = isinstance(bound, jax.Array) and not isinstance(bound, jax.core.Tracer)
    return np.asarray(bound) if is_concrete else bound
