"""The contract: one object that is a NumPyro transform, a distrax bijector and a pytree.

An author of a layer writes two methods, :meth:`Bijector.forward_and_log_det` and
:meth:`Bijector.inverse_and_log_det`, and declares the fields of the class. ``_protocols.py``
derives the interfaces of NumPyro and distrax from these.
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

    ``forward`` maps the base to the data (sampling), ``inverse`` the data to the base (density), as
    in NumPyro and distrax. An instance is a :class:`numpyro.distributions.transforms.Transform`, a
    :class:`distrax.Bijector` and a pytree whose leaves are its parameters, all floating point.

    **To write a layer**, subclass, annotate the fields (parameters as they are, configuration as
    ``static()``), provide ``event_shape``, and write the two methods. Inputs have shape
    ``(*batch, *event_shape)``; log-determinants have the shape ``batch``, in nats.

    Both methods are wrapped when the class is defined. The input arrives as a floating-point array
    whose event shape has been checked, and a scalar log-determinant is broadcast to the batch. If
    ``context_shape`` is set, the method gets a ``context``, and an input that has been broadcast to
    the joint batch shape. The context itself is not broadcast: its batch may have fewer axes, so
    that work on it is not repeated.

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
      event_shape: shape of one event on the base side, or None if every shape of
        ``event_ndims_in`` dimensions is valid.
      event_shape_out: shape of one event on the data side; ``event_shape`` unless overridden.
      context_shape: shape of one context, or None for a layer without a context.
      cheap_direction: the direction that costs one evaluation of a layer's network. NumPyro's
        ``log_abs_det_jacobian`` uses it.
      is_trainable: False for another library's transform, whose numbers are configuration.
    """

    # False for configuration: another library's transform, whose numbers must not be trained.
    is_trainable: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # NumPyro would register a pytree without key paths; skip that, and register it here.
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
        """Take no arguments, for a layer without fields; distrax's own constructor needs some."""

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
        """Compute ``y = f(x)`` and ``log|det dy/dx|``, from base to data.

        Args:
          x: ``(*batch, *event_shape)``, floating point.
          context: ``(*batch, *context_shape)``, or None where ``context_shape`` is None. The batch
            shapes of ``x`` and ``context`` broadcast.

        Returns:
          ``y`` of shape ``(*batch, *event_shape_out)`` and the log-determinant, shape ``batch``.
        """

    @abc.abstractmethod
    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        """Compute ``x = f^{-1}(y)`` and ``log|det dx/dy|``. Shapes as in the other method."""

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        """Return the layer initialized from data, and ``value`` mapped through the result.

        Layers that do not depend on a first batch return themselves. ``self`` is never changed.

        Args:
          value: a batch, ``(*batch, *event_shape)``.
          context: the batch's contexts, if the layer takes any.
          direction: the direction in which the data passes: "inverse", the density direction,
            unless the layer is inside of an :class:`~flowdists.Inverse`.
        """
        return self, getattr(self, f"{direction}_and_log_det")(value, context)[0]

    # What a layer states about its structure. The defaults are right for a layer without parts;
    # combinators forward these questions, and so does a `Wrapper`.

    @property
    def composition(self) -> tuple[Bijector, ...]:
        """The bijectors that compose this one, base side first."""
        return (self,)

    @property
    def latent_shapes(self) -> tuple[Shape, ...] | None:
        """The shapes of the pieces of an event on the base side, or None for a single piece.

        An event of several pieces is a vector: the pieces, flattened and concatenated.
        """
        return None

    def image_of(
        self, constraint: constraints.Constraint, direction: Direction = "forward"
    ) -> constraints.Constraint | None:
        """The image of the set ``constraint``, or None if it is not known.

        If ``constraint`` fills the domain, the image is the codomain. It counts as known only if
        its bounds are numbers: bounds that are arrays may depend on other variables.
        """
        domain, codomain = self._constraint_sides(direction)
        before, after = self._event_ndims(direction)
        event_dim = constraint.event_dim
        is_filled = is_real(constraint) or same(constraint, lift_constraint(domain, event_dim))
        if not is_filled or not all(map(is_number, jax.tree.leaves(codomain))):
            return None
        return lift_constraint(codomain, event_dim + after - before)

    def resolve_context(self, context: Array) -> tuple[Bijector, Array]:
        """The layer without the embedding of its context, and the embedded ``context``.

        Without an embedding, these are the layer itself and ``context``.
        """
        return self, context

    def unconditioned(self) -> tuple[Bijector, Callable[[Bijector], Bijector]]:
        """The layer without a filled-in context, and a function that fills it in again.

        A filled-in context is not trained. Without one, these are the layer and the identity.
        """
        return self, lambda layer: layer

    def check_data(self, caller: str, argument: str, value: Any) -> None:
        """Raise if ``value`` cannot be data for a flow that ends in this layer.

        Shape and dtype are checked elsewhere. By default every value is accepted.

        Args:
          caller: name of the caller, for error messages.
          argument: name of the value, for error messages.
          value: the data.
        """


def _declares(cls: type, name: str) -> bool:
    return hasattr(cls, name) or name in (field.name for field in dataclasses.fields(cls))
