"""What bijectors share that hold another one and look like it from outside."""

from __future__ import annotations

import abc

from numpyro.distributions import constraints

from flowdists.bijectors.base import Bijector, Direction, Shape


class Wrapper(Bijector):
    """A bijector with the shapes, the constraints and the costs of the one it holds."""

    @property
    @abc.abstractmethod
    def _inner(self) -> Bijector:
        """The bijector that this one looks like."""

    @property
    def event_shape(self) -> Shape | None:
        return self._inner.event_shape

    @property
    def event_shape_out(self) -> Shape | None:
        return self._inner.event_shape_out

    @property
    def event_ndims_in(self) -> int:
        return self._inner.event_ndims_in

    @property
    def event_ndims_out(self) -> int:
        return self._inner.event_ndims_out

    @property
    def context_shape(self) -> Shape | None:
        return self._inner.context_shape

    @property
    def cheap_direction(self) -> Direction:
        return self._inner.cheap_direction

    @property
    def is_constant_jacobian(self) -> bool:
        return self._inner.is_constant_jacobian

    @property
    def is_constant_log_det(self) -> bool:
        return self._inner.is_constant_log_det

    @property
    def domain(self) -> constraints.Constraint:
        return self._inner.domain

    @property
    def codomain(self) -> constraints.Constraint:
        return self._inner.codomain
