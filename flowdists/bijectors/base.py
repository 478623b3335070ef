"""The contract: one object that is a NumPyro transform, a distrax bijector and a pytree.

An author of a layer writes two methods, :meth:`Bijector.forward_and_log_det` and
:meth:`Bijector.inverse_and_log_det`, and declares the fields of the class. Everything that NumPyro,
distrax and JAX ask of such an object is derived here, once.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, dataclass_transform

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from flowdists import _check
from flowdists._compensated import Compensated, carries_errors, compensated, rounded
from flowdists._pytree import describe, make_pytree_class, static

Array = jax.Array
Shape = tuple[int, ...]
Direction = Literal["forward", "inverse"]


@dataclass_transform(eq_default=False, field_specifiers=(static,))
class Bijector(Transform, distrax.Bijector):
    r"""An invertible, differentiable map with a tractable log-determinant of its Jacobian.

    ``forward`` takes the base to the data (sampling), ``inverse`` the data to the base (density),
    as in NumPyro and distrax. An instance is a :class:`numpyro.distributions.transforms.Transform`,
    a :class:`distrax.Bijector` and a pytree whose leaves are its parameters, all floating point.

    **To write a layer**, subclass, annotate the fields (parameters as they are, configuration as
    ``static()``), provide ``event_shape``, and write the two methods. Inputs have shape
    ``(*batch, *event_shape)``; log-determinants have the shape ``batch``, in nats. Both methods are
    wrapped on definition: a scalar log-determinant is broadcast to the batch; the input arrives as
    a floating-point array whose event shape has been checked; ``context`` is given exactly if
    ``context_shape`` is set, and then the input has been broadcast to the joint batch shape (the
    context has not: its batch may have fewer axes, so that work on it is not repeated).

    >>> import jax.numpy as jnp
    >>> class Scale(Bijector):
    ...     log_scale: jax.Array
    ...     @property
    ...     def event_shape(self):
    ...         return self.log_scale.shape
    ...     def forward_and_log_det(self, x, context=None):
    ...         return x * jnp.exp(self.log_scale), self.log_scale.sum()
    ...     def inverse_and_log_det(self, y, context=None):
    ...         return y * jnp.exp(-self.log_scale), -self.log_scale.sum()
    >>> layer = Scale(jnp.array([0.0, 1.0]))
    >>> print(layer.inv(layer(jnp.ones(2))), layer.log_abs_det_jacobian(jnp.ones(2), None))
    [1. 1.] 1.0

    Attributes:
      event_shape: shape of one event on the base side, or None where any shape of
        ``event_ndims_in`` dimensions will do.
      event_shape_out: shape of one event on the data side; ``event_shape`` unless overridden.
      context_shape: shape of one context, or None for a layer that takes none.
      cheap_direction: the direction that costs one evaluation of a layer's network. NumPyro's
        ``log_abs_det_jacobian`` uses it.
    """

    if TYPE_CHECKING:  # a subclass makes each a field or a property

        @property
        def event_shape(self) -> Any: ...

        @property
        def context_shape(self) -> Any: ...

    else:
        context_shape = None

    # Whether the two methods take `Compensated` values as well as arrays; others get them rounded.
    _carries_errors: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # NumPyro would register a pytree that lacks key paths; skip it, register once ourselves.
        super(Transform, cls).__init_subclass__(**kwargs)
        methods: dict[str, Direction] = {
            "forward_and_log_det": "forward",
            "inverse_and_log_det": "inverse",
        }
        cls._carries_errors = carries_errors(cls, methods)
        for name, direction in methods.items():
            if name in cls.__dict__:
                setattr(cls, name, _checked(cls.__dict__[name], direction))
        make_pytree_class(cls)
        if cls._is_concrete() and not _declares(cls, "event_shape"):
            raise TypeError(
                f"{cls.__name__} must provide `event_shape`, as a field or a property: the shape "
                "of one event, or None for any shape"
            )

    def __init__(self) -> None:
        """A layer without fields takes no arguments; distrax's own constructor would."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Bijector:
        # distrax's `Jittable.__new__` would register the class with JAX a second time.
        del args, kwargs
        return object.__new__(cls)

    @classmethod
    def _is_concrete(cls) -> bool:
        methods = (cls.forward_and_log_det, cls.inverse_and_log_det)
        return not any(getattr(method, "__isabstractmethod__", False) for method in methods)

    # What an author writes.

    @abc.abstractmethod
    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        """Compute ``y = f(x)`` and ``log|det dy/dx|``, base to data.

        Args:
          x: ``(*batch, *event_shape)``, floating point.
          context: ``(*batch, *context_shape)``, or None where ``context_shape`` is None. The batch
            shapes of ``x`` and ``context`` broadcast.

        Returns:
          ``y`` of shape ``(*batch, *event_shape_out)`` and the log-determinant, shape ``batch``.
        """

    @abc.abstractmethod
    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        """Compute ``x = f^{-1}(y)`` and ``log|det dx/dy|``, data to base. Shapes as in forward."""

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        """Return the layer initialized from data, and ``value`` mapped through the result.

        Layers that do not learn from a first batch return themselves. Pure: ``self`` is unchanged.

        Args:
          value: a batch, ``(*batch, *event_shape)``.
          context: the batch's contexts, if the layer takes any.
          direction: where the data goes: "inverse", the density direction, unless an
            :class:`~flowdists.Inverse` has turned the layer around.
        """
        return self, getattr(self, f"{direction}_and_log_det")(value, context)[0]

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
        """Where inputs of ``forward`` live."""
        return real_constraint(self.event_ndims_in)

    @property
    def codomain(self) -> constraints.Constraint:
        """Where outputs of ``forward`` live: the support of a flow that ends in this layer."""
        return real_constraint(self.event_ndims_out)

    @property
    def inv(self) -> Bijector:
        """The inverse map, a Bijector; ``t.inv.inv is t``."""
        from flowdists.bijectors.inverse import Inverse

        return Inverse(self)

    def __call__(self, x: Array) -> Array:
        return self.forward_and_log_det(x)[0]

    def _inverse(self, y: Array) -> Array:
        return self.inverse_and_log_det(y)[0]

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Return ``y`` and the log-determinant, which NumPyro hands back when it scores ``y``."""
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
    def tree_unflatten(cls, aux_data: Any, params: Any) -> Bijector:
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

    # NumPyro defines `__eq__` by value, which takes the hash away and with it `jax.jit(layer)`.

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    # distrax's protocol.

    def forward(self, x: Array) -> Array:
        """Compute ``y = f(x)``, base to data."""
        return self.forward_and_log_det(x)[0]

    def inverse(self, y: Array) -> Array:
        """Compute ``x = f^{-1}(y)``, data to base."""
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

    def _event_ndims(self, direction: Direction) -> tuple[int, int]:
        ndims = (self.event_ndims_in, self.event_ndims_out)
        return ndims if direction == "forward" else ndims[::-1]


def real_constraint(event_ndims: int) -> constraints.Constraint:
    """NumPyro's constraint for unbounded events of ``event_ndims`` dimensions."""
    singletons = (constraints.real, constraints.real_vector, constraints.real_matrix)
    if event_ndims < len(singletons):
        return singletons[event_ndims]
    return constraints.independent(constraints.real, event_ndims)


def lift_constraint(constraint: constraints.Constraint, event_ndims: int) -> constraints.Constraint:
    """``constraint`` on every element of events with ``event_ndims`` axes."""
    extra = event_ndims - constraint.event_dim
    if extra == 0:
        return constraint
    if constraint == real_constraint(constraint.event_dim):
        return real_constraint(event_ndims)
    return constraints.independent(constraint, extra)


def _declares(cls: type, name: str) -> bool:
    return hasattr(cls, name) or name in (field.name for field in dataclasses.fields(cls))


def _equal_concrete(a: Any, b: Any) -> bool:
    if isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer):
        return False
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


def _check_result(
    caller: str, result: tuple[Array, Array], event_ndims: int
) -> tuple[Array, Array]:
    """Give the log-determinant the batch shape of the value; NumPyro sums a scalar wrong."""
    value, log_det = result
    batch = value.shape[: value.ndim - event_ndims]
    if jnp.shape(log_det) not in (batch, ()):
        raise ValueError(
            f"{caller}: the log-determinant must have the batch shape {batch} or be a scalar, got "
            f"shape {jnp.shape(log_det)}"
        )
    return value, jnp.broadcast_to(log_det, batch)


def _checked(method: Callable[..., Any], direction: Direction) -> Callable[..., Any]:
    """Wrap an author's method so that its input is checked before it runs, and is an array.

    Or a :class:`Compensated` value, where the layer says that it takes them.
    """

    @functools.wraps(method)
    def wrapper(self: Bijector, value: Any, context: Any = None) -> tuple[Any, Array]:
        caller = f"{self.name}.{direction}_and_log_det"
        argument = "x" if direction == "forward" else "y"
        if not isinstance(value, Compensated):
            value = _check.float_array(caller, argument, value)
        elif not self._carries_errors:
            value, log_det = wrapper(self, rounded(value), context)
            return compensated(value), log_det
        source, _ = self._event_sides(direction)
        ndims, ndims_out = self._event_ndims(direction)
        _check.event_shape(caller, argument, value.shape, source, ndims)
        if self.context_shape is None:
            _check.no_context(caller, context)
            return _check_result(caller, method(self, value), ndims_out)
        context = _check.context(caller, context, self.context_shape)
        cut = value.ndim - ndims
        context_batch = context.shape[: context.ndim - len(self.context_shape)]
        joint = _check.joint_batch(caller, argument, value.shape[:cut], context_batch)
        shape = joint + value.shape[cut:]
        value = jax.tree.map(lambda part: jnp.broadcast_to(part, shape), value)
        return _check_result(caller, method(self, value, context), ndims_out)

    return wrapper
