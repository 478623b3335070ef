"""The interfaces of NumPyro and distrax, derived from a bijector's two methods and its shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from flowdists import _check
from flowdists._constraints import real_constraint
from flowdists._pytree import describe
from flowdists.bijectors._checked import Array, Direction

Shape = tuple[int, ...]


class Protocols(Transform, distrax.Bijector):
    """Members of a NumPyro transform and a distrax bijector that authors do not have to write."""

    if TYPE_CHECKING:  # a subclass makes each a field or a property

        @property
        def event_shape(self) -> Any: ...

        @property
        def context_shape(self) -> Any: ...

    else:
        context_shape = None

    @property
    def event_shape_out(self) -> Any:
        """Shape of one event on the data side."""
        return self.event_shape

    @property
    def cheap_direction(self) -> Direction:
        """The direction that needs a single evaluation of the layer's network."""
        return "forward"

    # NumPyro's protocol.

    @property
    def domain(self) -> constraints.Constraint:
        """The set of valid inputs of ``forward``."""
        return real_constraint(self.event_ndims_in)

    @property
    def codomain(self) -> constraints.Constraint:
        """The set of outputs of ``forward``: the support of a flow that ends in this layer."""
        return real_constraint(self.event_ndims_out)

    @property
    def inv(self) -> Any:
        """The inverse map, a Bijector; ``t.inv.inv is t``."""
        from flowdists.bijectors.compose.inverse import Inverse

        return Inverse(self)

    def __call__(self, x: Array) -> Array:
        return self.forward_and_log_det(x)[0]

    def _inverse(self, y: Array) -> Array:
        return self.inverse_and_log_det(y)[0]

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Return ``y`` and the log-determinant, which NumPyro passes back when it scores ``y``."""
        return self.forward_and_log_det(x)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Array | None = None) -> Array:
        """Compute ``log|det dy/dx|``, shape ``batch``, from the cheaper of ``x`` and ``y``."""
        if intermediates is not None:
            return intermediates
        if self.cheap_direction == "inverse":
            return -self.inverse_and_log_det(y)[1]
        return self.forward_and_log_det(x)[1]

    def forward_shape(self, shape: Shape) -> Shape:
        """Shape of ``forward``'s output for an input of ``shape`` (batch and event)."""
        return self._map_shape("forward", shape)

    def inverse_shape(self, shape: Shape) -> Shape:
        """Shape of ``inverse``'s output for an input of ``shape`` (batch and event)."""
        return self._map_shape("inverse", shape)

    def _map_shape(self, direction: Direction, shape: Shape) -> Shape:
        source, target = self._event_sides(direction)
        ndims, _ = self._event_ndims(direction)
        _check.event_shape(f"{self.name}.{direction}_shape", "shape", shape, source, ndims)
        return shape if target is None else shape[: len(shape) - ndims] + target

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """The pytree's leaves and structure, as :func:`jax.tree.flatten` gives them."""
        leaves, structure = jax.tree.flatten(self)
        return tuple(leaves), structure

    @classmethod
    def tree_unflatten(cls, aux_data: Any, params: Any) -> Any:
        """Rebuild from what :meth:`tree_flatten` returned."""
        return jax.tree.unflatten(aux_data, params)

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether ``other`` has the same structure and equal parameters.

        Args:
          other: anything.
          static: if True the answer is a Python bool, and traced parameters are equal only to
            themselves; if False it may be a traced boolean.
        """
        if self is other:
            return True
        if type(other) is not type(self):
            return False
        mine, theirs = jax.tree.leaves(self), jax.tree.leaves(other)
        structures: list[Any] = [jax.tree.structure(self), jax.tree.structure(other)]
        if structures[0] != structures[1]:
            return False
        pairs = list(zip(mine, theirs, strict=True))
        if any(jnp.shape(a) != jnp.shape(b) for a, b in pairs):
            return False
        if static:
            return all(a is b or _equal_concrete(a, b) for a, b in pairs)
        return jnp.all(jnp.array([jnp.all(a == b) for a, b in pairs]))

    # NumPyro defines `__eq__` by value. That removes the hash, which `jax.jit(layer)` needs.

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    # distrax's protocol.

    def forward(self, x: Array) -> Array:
        """Compute ``y = f(x)``, from base to data."""
        return self.forward_and_log_det(x)[0]

    def inverse(self, y: Array) -> Array:
        """Compute ``x = f^{-1}(y)``, from data to base."""
        return self.inverse_and_log_det(y)[0]

    @property
    def event_ndims_in(self) -> int:
        """Number of dimensions of an event on the base side."""
        return len(self.event_shape)

    @property
    def event_ndims_out(self) -> int:
        """Number of dimensions of an event on the data side."""
        return len(self.event_shape_out)

    @property
    def is_constant_jacobian(self) -> bool:
        """Whether the map is promised to be affine."""
        return False

    @property
    def is_constant_log_det(self) -> bool:
        """Whether the log-determinant is promised not to depend on the input."""
        return self.is_constant_jacobian

    @property
    def name(self) -> str:
        """The name of the class."""
        return type(self).__name__

    def same_as(self, other: distrax.Bijector) -> bool:
        """Whether ``other`` is guaranteed to be the same map (distrax's question)."""
        return bool(self.eq(other, static=True))

    def __repr__(self) -> str:
        return describe(self)

    def _event_sides(self, direction: Direction) -> tuple[Shape | None, Shape | None]:
        sides = (self.event_shape, self.event_shape_out)
        return sides if direction == "forward" else sides[::-1]

    def _constraint_sides(
        self, direction: Direction
    ) -> tuple[constraints.Constraint, constraints.Constraint]:
        sides = (self.domain, self.codomain)
        return sides if direction == "forward" else sides[::-1]

    def _event_ndims(self, direction: Direction) -> tuple[int, int]:
        ndims = (self.event_ndims_in, self.event_ndims_out)
        return ndims if direction == "forward" else ndims[::-1]


def _equal_concrete(a: Any, b: Any) -> bool:
    if isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer):
        return False
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))
