"""The contract: one object that is a NumPyro transform, a distrax bijector and a pytree.

An author of a layer writes two methods, :meth:`Bijector.forward_and_log_det` and
:meth:`Bijector.inverse_and_log_det`, and declares the fields of the class. What NumPyro and distrax
ask of such an object is derived from these in ``_protocols.py``.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform

import jax
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from flowdists._constraints import is_number, is_real, lift_constraint, same
from flowdists._pytree import make_pytree_class, static
from flowdists.bijectors._checked import Array, Direction, checked
from flowdists.bijectors._protocols import Protocols, Shape

__all__ = ["Array", "Bijector", "Direction", "Shape"]


@dataclass_transform(eq_default=False, field_specifiers=(static,))
class Bijector(Protocols):
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
      is_trainable: False for another library's transform, whose numbers are configuration.
    """

    # False for configuration: another library's transform, whose numbers must not be trained.
    is_trainable: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # NumPyro would register a pytree that lacks key paths; skip it, register once ourselves.
        super(Transform, cls).__init_subclass__(**kwargs)
        directions: tuple[Direction, ...] = ("forward", "inverse")
        for direction in directions:
            name = f"{direction}_and_log_det"
            if name in cls.__dict__:
                setattr(cls, name, checked(cls.__dict__[name], direction))
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

    # What a layer states about its structure. The defaults are right for a layer without parts;
    # combinators forward these questions, and so does a `Wrapper`.

    @property
    def composition(self) -> tuple[Bijector, ...]:
        """The bijectors of which this one is the composition, base side first."""
        return (self,)

    @property
    def latent_shapes(self) -> tuple[Shape, ...] | None:
        """The shapes of the pieces of which an event on the base side consists, or None for one.

        Such an event is a vector: the pieces, flattened, one after the other.
        """
        return None

    def image_of(
        self, constraint: constraints.Constraint, direction: Direction = "forward"
    ) -> constraints.Constraint | None:
        """The set onto which the map takes the set ``constraint``, or None if it is not known.

        It is known where ``constraint`` fills the domain: then it is the codomain, if the bounds of
        that are numbers. (Bounds that are arrays may depend on other variables.)
        """
        domain, codomain = self._constraint_sides(direction)
        before, after = self._event_ndims(direction)
        event_dim = constraint.event_dim
        is_filled = is_real(constraint) or same(constraint, lift_constraint(domain, event_dim))
        if not is_filled or not all(map(is_number, jax.tree.leaves(codomain))):
            return None
        return lift_constraint(codomain, event_dim + after - before)

    def resolve_context(self, context: Array) -> tuple[Bijector, Array]:
        """The layer behind an embedding of its context, and the embedded ``context``.

        Without an embedding: the layer itself, and ``context``.
        """
        return self, context

    def unconditioned(self) -> tuple[Bijector, Callable[[Bijector], Bijector]]:
        """The layer whose parameters are trained, and a function that adds what is not.

        What is not trained is a context that was filled in. Without any: the layer, the identity.
        """
        return self, lambda layer: layer

    def check_data(self, caller: str, argument: str, value: Any) -> None:
        """Raise if ``value`` cannot be data for a flow that ends in this layer.

        Beyond shape and dtype, which are checked elsewhere. By default anything can.

        Args:
          caller: what to call the caller in an error message.
          argument: what to call the value.
          value: the data.
        """


def _declares(cls: type, name: str) -> bool:
    return hasattr(cls, name) or name in (field.name for field in dataclasses.fields(cls))
