"""Maps from unbounded space onto the support of a distribution, built on NumPyro's registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

from flowdists.bijectors._image import bounds, foreign_in, layers_of, same
from flowdists.bijectors.base import Array, Bijector, Shape, real_constraint
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.concatenated import Concatenated, Concatenation
from flowdists.bijectors.foreign import Foreign
from flowdists.bijectors.wrapper import Wrapper


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


def support_of(caller: str, support: Any, event_shape: Shape) -> Bijector:
    """The bijector from unbounded space onto ``support``, for events of ``event_shape``.

    Args:
      caller: what to call the caller in an error message.
      support: a NumPyro constraint; or, for vectors, a sequence with one for each element.
      event_shape: shape of one event inside of the support.

    Raises:
      TypeError: if it is neither.
      ValueError: if it does not fit the event.
    """
    if isinstance(support, Sequence) and not isinstance(support, str):
        support = _each(caller, support, event_shape)
    if not isinstance(support, constraints.Constraint):
        raise TypeError(
            f"{caller}: `support` must be a numpyro constraint, or a sequence of them, got "
            f"{support!r}"
        )
    try:
        layer = _onto(support)
        fits = layer.forward_shape(layer.inverse_shape(event_shape)) == event_shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{caller}: `support` must be a constraint on events of shape {event_shape}, got "
            f"{support}"
        )
    return layer


def _each(caller: str, support: Sequence[Any], event_shape: Shape) -> Concatenation:
    if len(event_shape) != 1 or len(support) != event_shape[0]:
        raise ValueError(
            f"{caller}: `support` as a sequence must have one constraint for each element of an "
            f"event of shape {event_shape}, got {len(support)}"
        )
    if any(not isinstance(c, constraints.Constraint) or c.event_dim for c in support):
        raise TypeError(
            f"{caller}: `support` as a sequence must hold constraints on numbers, got {support}"
        )
    return Concatenation(support, [()] * len(support))


def _onto(support: constraints.Constraint) -> Bijector:
    if not isinstance(support, Concatenation):
        return to_support(support)
    parts = [to_support(part) for part in support.parts]
    pairs = zip(parts, support.shapes, strict=True)
    return Concatenated(parts, [part.inverse_shape(shape) for part, shape in pairs])


def guard(bijector: Bijector) -> Bijector:
    """``bijector`` with an inverse that is finite beyond bounds, where its log-det is ``-inf``.

    The bounds are those of NumPyro's maps onto intervals and half-lines. Other constraints (a
    simplex, say) are not looked at: they hold only up to rounding, and what is right for a bound
    would turn that into a density of zero.
    """
    layers = layers_of(bijector)
    guarded = [_guarded(layer) for layer in layers]
    return bijector if all(a is b for a, b in zip(layers, guarded, strict=True)) else Chain(guarded)


def replace_outside(constraint: constraints.Constraint, value: Array, inside: Array) -> Array:
    """``value`` with a point of ``constraint`` for each event that is not ``inside``.

    A NaN that arose there and was discarded afterwards would still make the gradient NaN.
    """
    feasible = jnp.asarray(constraint.feasible_like(value), value.dtype)
    return jnp.where(jnp.expand_dims(inside, _last(constraint.event_dim)), value, feasible)


def mask_density(
    constraint: constraints.Constraint, value: Array, inside: Array, log_density: Array
) -> Array:
    """``log_density``, but ``-inf`` for events not ``inside``, and NaN for those with a NaN."""
    undefined = jnp.isnan(value).any(_last(constraint.event_dim))
    return jnp.where(undefined, jnp.nan, jnp.where(inside, log_density, -jnp.inf))


class _Guarded(Wrapper):
    """A map onto an interval whose inverse takes a point from inside in place of any other."""

    bijector: Bijector

    @property
    def _inner(self) -> Bijector:
        return self.bijector

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self.bijector.forward_and_log_det(x)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        codomain = self.codomain
        # The bounds themselves are not inside.
        unbounded = jax.lax.stop_gradient(biject_to(codomain).inv(y))
        inside = codomain(y) & jnp.isfinite(unbounded).all(_last(codomain.event_dim))
        x, log_det = self.bijector.inverse_and_log_det(replace_outside(codomain, y, inside))
        return x, mask_density(codomain, y, inside, log_det)


def _guarded(layer: Bijector) -> Bijector:
    if isinstance(layer, Concatenated):
        parts = [guard(part) for part in layer.parts]
        is_bounded = any(a is not b for a, b in zip(parts, layer.parts, strict=True))
        return Concatenated(parts, layer.shapes) if is_bounded else layer
    return _Guarded(layer) if _has_bounds(layer) else layer


def _has_bounds(layer: Bijector) -> bool:
    if foreign_in(layer) is None or bounds(layer.codomain) is None:
        return False
    return not same(layer.codomain, real_constraint(layer.event_ndims_out))


def _last(axes: int) -> tuple[int, ...]:
    return tuple(range(-axes, 0))


def _as_configuration(bound: object) -> object:
    is_concrete = isinstance(bound, jax.Array) and not isinstance(bound, jax.core.Tracer)
    return np.asarray(bound) if is_concrete else bound
