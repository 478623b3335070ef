"""Layers that map unbounded space onto the support of a distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpyro.distributions import biject_to, constraints

from flowdists.bijectors.base import Bijector, Shape
from flowdists.bijectors.compose.concatenated import Concatenated, Concatenation
from flowdists.bijectors.compose.foreign import Foreign


class Support(Foreign):
    """The bijector from unbounded space onto ``constraint`` that NumPyro's ``biject_to`` returns.

    As the last layer, it gives a flow its support. Outside of it the density is zero: there the
    log-determinant of the inverse is ``-inf``. The bounds are configuration and never trained. Only
    traced bounds are leaves (of a support that depends on other variables).

    Args:
      constraint: a NumPyro constraint, such as ``constraints.interval(0.0, 1.0)``.

    Raises:
      TypeError: if it is not a constraint.
      NotImplementedError: if NumPyro has no bijection for it (a discrete support).

    >>> from numpyro.distributions import constraints
    >>> layer = fd.bijectors.Support(constraints.interval(-1.0, 3.0))
    >>> print(layer(jnp.array(0.0)), layer.inverse_and_log_det(jnp.array(5.0))[1])
    1.0 -inf
    """

    def __init__(self, constraint: constraints.Constraint) -> None:
        if not isinstance(constraint, constraints.Constraint):
            raise TypeError(
                "to_support: `constraint` must be a numpyro constraint, got "
                f"{type(constraint).__name__}"
            )
        super().__init__(biject_to(jax.tree.map(_as_configuration, constraint)))

    @property
    def name(self) -> str:
        return f"Support({self.codomain})"


def to_support(constraint: constraints.Constraint) -> Bijector:
    """The layer from unbounded space onto ``constraint``, a :class:`Support`.

    Args:
      constraint: a NumPyro constraint, such as ``constraints.interval(0.0, 1.0)``.

    Raises:
      TypeError: if it is not a constraint.
      NotImplementedError: if NumPyro has no bijection for it (a discrete support).

    >>> import jax.numpy as jnp
    >>> from numpyro.distributions import constraints
    >>> print(to_support(constraints.interval(-1.0, 3.0))(jnp.array(0.0)))
    1.0
    """
    return Support(constraint)


def support_of(caller: str, support: Any, event_shape: Shape) -> Bijector:
    """The bijector from unbounded space onto ``support``, for events of ``event_shape``.

    Args:
      caller: name of the caller, for error messages.
      support: a NumPyro constraint; or, for vectors, a sequence with one for each element.
      event_shape: shape of one event inside of the support.

    Raises:
      TypeError: for any other object.
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


def _as_configuration(bound: object) -> object:
    is_concrete = isinstance(bound, jax.Array) and not isinstance(bound, jax.core.Tracer)
    return np.asarray(bound) if is_concrete else bound
