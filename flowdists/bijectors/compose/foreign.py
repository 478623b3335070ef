"""Transforms of NumPyro and bijectors of distrax as layers."""

from __future__ import annotations

from typing import Any

import distrax
import jax
import jax.numpy as jnp
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from flowdists._constraints import is_number, real_constraint, within_bounds
from flowdists._pytree import Partitioned, is_traced
from flowdists.bijectors.base import Array, Bijector, Direction, Shape


class Foreign(Bijector):
    """A NumPyro transform or a distrax bijector as a :class:`~flowdists.Bijector`.

    :class:`~flowdists.Chain` wraps such objects automatically. They are used as they are and never
    trained. All their numbers are configuration, because some must not change freely: distrax
    stores a scale next to its logarithm, and a triangular matrix of NumPyro has an empty half. Only
    traced values stay leaves, so that gradients reach what they were computed from.

    If NumPyro states bounds for the elements of a side, a value outside of them has a
    log-determinant of ``-inf``: the density of a flow is zero there.

    Args:
      transform: the object to wrap.

    Raises:
      TypeError: for any other object.

    >>> import jax.numpy as jnp
    >>> from numpyro.distributions.transforms import ExpTransform
    >>> y, log_det = Foreign(ExpTransform()).forward_and_log_det(jnp.array(2.0))
    >>> print(log_det)
    2.0
    """

    wrapped: Partitioned
    is_trainable = False

    def __init__(self, transform: Transform | distrax.Bijector) -> None:
        if not isinstance(transform, Transform | distrax.Bijector):
            raise TypeError(
                "Foreign: `transform` must be a numpyro Transform or a distrax Bijector, got "
                f"{type(transform).__name__}"
            )
        self.wrapped = Partitioned(transform, is_traced)

    @property
    def transform(self) -> Any:
        """The wrapped object."""
        return self.wrapped.merge()

    @property
    def _is_distrax(self) -> bool:
        return isinstance(self.transform, distrax.Bijector)

    @property
    def event_shape(self) -> None:
        return None

    @property
    def event_ndims_in(self) -> int:
        transform = self.transform
        return transform.event_ndims_in if self._is_distrax else transform.domain.event_dim

    @property
    def event_ndims_out(self) -> int:
        transform = self.transform
        return transform.event_ndims_out if self._is_distrax else transform.codomain.event_dim

    @property
    def domain(self) -> constraints.Constraint:
        return real_constraint(self.event_ndims_in) if self._is_distrax else self.transform.domain

    @property
    def codomain(self) -> constraints.Constraint:
        return (
            real_constraint(self.event_ndims_out) if self._is_distrax else self.transform.codomain
        )

    @property
    def is_constant_jacobian(self) -> bool:
        return self._is_distrax and self.transform.is_constant_jacobian

    @property
    def is_constant_log_det(self) -> bool:
        return self._is_distrax and self.transform.is_constant_log_det

    @property
    def name(self) -> str:
        return f"Foreign({type(self.transform).__name__})"

    def forward_shape(self, shape: Shape) -> Shape:
        if self._is_distrax:
            return _traced_shape(self.transform.forward, shape)
        return tuple(self.transform.forward_shape(shape))

    def inverse_shape(self, shape: Shape) -> Shape:
        if self._is_distrax:
            return _traced_shape(self.transform.inverse, shape)
        return tuple(self.transform.inverse_shape(shape))

    def image_of(
        self, constraint: constraints.Constraint, direction: Direction = "forward"
    ) -> constraints.Constraint | None:
        if self._is_distrax and not self.is_constant_jacobian:
            return None  # distrax states no codomains; only that of an affine map is certain
        return super().image_of(constraint, direction)

    def _constraint_sides(
        self, direction: Direction
    ) -> tuple[constraints.Constraint, constraints.Constraint]:
        """The two sides. Bounds that NumPyro computes from numbers alone are numbers, too."""
        if not all(map(is_number, jax.tree.leaves(self.transform))):
            return super()._constraint_sides(direction)
        with jax.ensure_compile_time_eval():
            return jax.tree.map(
                lambda leaf: leaf if is_number(leaf) else float(leaf),
                super()._constraint_sides(direction),
            )

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        if self._is_distrax:
            return self.transform.forward_and_log_det(x)
        return within_bounds(self.domain, x, self._forward)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        if self._is_distrax:
            return self.transform.inverse_and_log_det(y)
        return within_bounds(self.codomain, y, self._backward)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        y, intermediates = self.transform.call_with_intermediates(x)
        return y, self.transform.log_abs_det_jacobian(x, y, intermediates)

    def _backward(self, y: Array) -> tuple[Array, Array]:
        x = self.transform.inv(y)
        return x, -self.transform.log_abs_det_jacobian(x, y)


def _traced_shape(function: Any, shape: Shape) -> Shape:
    return jax.eval_shape(function, jax.ShapeDtypeStruct(shape, jnp.result_type(float))).shape
