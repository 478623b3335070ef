"""Base classes of bijectors that hold another one and have its interface."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable
from typing import Any

from numpyro.distributions import constraints

from flowdists.bijectors.base import Array, Bijector, Direction, Shape


class Delegating(Bijector):
    """A bijector with the shapes and sets of its ``inner`` bijector."""

    @property
    @abc.abstractmethod
    def inner(self) -> Bijector:
        """The bijector whose shapes and sets this one has."""

    @property
    def event_shape(self) -> Shape | None:
        return self.inner.event_shape

    @property
    def event_shape_out(self) -> Shape | None:
        return self.inner.event_shape_out

    @property
    def event_ndims_in(self) -> int:
        return self.inner.event_ndims_in

    @property
    def event_ndims_out(self) -> int:
        return self.inner.event_ndims_out

    @property
    def context_shape(self) -> Shape | None:
        return self.inner.context_shape

    @property
    def cheap_direction(self) -> Direction:
        return self.inner.cheap_direction

    @property
    def is_constant_jacobian(self) -> bool:
        return self.inner.is_constant_jacobian

    @property
    def is_constant_log_det(self) -> bool:
        return self.inner.is_constant_log_det

    @property
    def domain(self) -> constraints.Constraint:
        return self.inner.domain

    @property
    def codomain(self) -> constraints.Constraint:
        return self.inner.codomain

    @property
    def latent_shapes(self) -> tuple[Shape, ...] | None:
        return self.inner.latent_shapes

    def forward_shape(self, shape: Shape) -> Shape:
        return self.inner.forward_shape(shape)

    def inverse_shape(self, shape: Shape) -> Shape:
        return self.inner.inverse_shape(shape)

    def image_of(
        self, constraint: constraints.Constraint, direction: Direction = "forward"
    ) -> constraints.Constraint | None:
        return self.inner.image_of(constraint, direction)

    def check_data(self, caller: str, argument: str, value: Any) -> None:
        self.inner.check_data(caller, argument, value)


class Wrapper(Delegating):
    """A bijector that holds another one, and forwards everything to it.

    **To write a wrapper**, subclass, declare a field ``bijector``, and override what is different.
    Everything else is as in the held bijector: shapes, constraints, the density outside of a
    support, the scales of an image, the cheap direction.

    >>> class Counted(Wrapper):
    ...     bijector: Bijector
    ...     calls = 0
    ...     def inverse_and_log_det(self, y, context=None):
    ...         Counted.calls += 1
    ...         return self.bijector.inverse_and_log_det(y, context)
    >>> flow = Flow(StandardNormal((2,)), Counted(Affine(jnp.zeros(2), jnp.ones(2))))
    >>> _ = flow.log_prob(jnp.zeros(2))
    >>> Counted.calls
    1
    """

    @property
    def inner(self) -> Bijector:
        return self.bijector

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self.inner.forward_and_log_det(x, context)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self.inner.inverse_and_log_det(y, context)

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        layer = self._around(self.inner.data_init(value, context, direction)[0])
        return layer, getattr(layer, f"{direction}_and_log_det")(value, context)[0]

    def resolve_context(self, context: Array) -> tuple[Bijector, Array]:
        layer, context = self.inner.resolve_context(context)
        return self if layer is self.inner else self._around(layer), context

    def unconditioned(self) -> tuple[Bijector, Callable[[Bijector], Bijector]]:
        layer, condition = self.inner.unconditioned()
        if layer is self.inner:
            return super().unconditioned()
        # Parameters of the wrapper are trained, too.
        return self._around(layer), lambda wrapped: wrapped._around(condition(wrapped.inner))

    def _around(self, bijector: Bijector) -> Wrapper:
        layer = copy.copy(self)
        layer.bijector = bijector
        return layer
