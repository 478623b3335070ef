"""Layers one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from numpyro.distributions import constraints
from numpyro.distributions.transforms import ComposeTransform

from flowdists._constraints import lift_constraint
from flowdists._events import sum_last
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.bijectors.compose.foreign import Foreign


class Chain(Bijector):
    """Composition, applied left to right in ``forward``: ``Chain([f, g]).forward(x) = g(f(x))``.

    That is NumPyro's order; distrax's own ``Chain`` composes right to left. NumPyro transforms and
    distrax bijectors may be among the layers. A layer that acts on fewer event axes than the chain
    (a scalar map, for example) is applied along the others, and its log-determinants are summed. A
    context goes to the layers that take one.

    Args:
      layers: at least one layer, base side first.

    Raises:
      TypeError: if a layer is not a bijector of this library, NumPyro or distrax.
      ValueError: if there is no layer, or neighbours disagree on event or context shape.

    >>> import jax.numpy as jnp
    >>> from numpyro.distributions.transforms import ExpTransform
    >>> chain = Chain([Affine(jnp.zeros(2), jnp.ones(2)), ExpTransform()])
    >>> y, log_det = chain.forward_and_log_det(jnp.array([1.0, 2.0]))
    >>> print(log_det)
    3.0
    """

    layers: tuple[Bijector, ...]

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = tuple(as_bijector(layer) for layer in layers)
        if not self.layers:
            raise ValueError("Chain: `layers` must hold at least one layer, got none")
        common_context_shape("Chain", "layers", self.layers)
        self._check_event_shapes()

    def _check_event_shapes(self) -> None:
        shape = self.event_shape
        for i, (layer, ndims) in enumerate(zip(self.layers, self._ndims("forward"), strict=True)):
            wanted = layer.event_shape
            if shape is None:
                shape = wanted
            own = None if shape is None else shape[ndims - layer.event_ndims_in :]
            if wanted is not None and own != wanted:
                raise ValueError(
                    f"Chain: `layers[{i}]` ({layer.name}) takes events of shape {wanted}, but "
                    f"receives {own}"
                )
            if shape is not None:
                gained = layer.event_ndims_out - layer.event_ndims_in
                shape = _event_of(layer.forward_shape(shape), ndims + gained)

    def _ndims(self, direction: Direction) -> list[int]:
        """Numbers of event axes of each layer's input, in the order of ``direction``."""
        ordered = self._ordered(direction)
        sides = [layer._event_ndims(direction) for layer in ordered]
        gained, needed = 0, 0
        for before, after in sides:
            needed = max(needed, before - gained)
            gained += after - before
        ndims = [needed]
        for before, after in sides[:-1]:
            ndims.append(ndims[-1] + after - before)
        return ndims

    def _ordered(self, direction: Direction) -> tuple[Bijector, ...]:
        return self.layers if direction == "forward" else self.layers[::-1]

    @property
    def event_ndims_in(self) -> int:
        return self._ndims("forward")[0]

    @property
    def event_ndims_out(self) -> int:
        return self._ndims("inverse")[0]

    @property
    def event_shape(self) -> Shape | None:
        return self._side("forward")

    @property
    def event_shape_out(self) -> Shape | None:
        return self._side("inverse")

    def _side(self, direction: Direction) -> Shape | None:
        """The event shape of the input, computed back from the first layer that states its own."""
        ordered, all_ndims = self._ordered(direction), self._ndims(direction)
        for i, (layer, ndims) in enumerate(zip(ordered, all_ndims, strict=True)):
            shape, _ = layer._event_sides(direction)
            if shape is not None and len(shape) == ndims:
                for j in reversed(range(i)):
                    undo = "inverse_shape" if direction == "forward" else "forward_shape"
                    shape = _event_of(getattr(ordered[j], undo)(shape), all_ndims[j])
                return shape
        return None

    @property
    def context_shape(self) -> Shape | None:
        return common_context_shape("Chain", "layers", self.layers)

    @property
    def cheap_direction(self) -> Direction:
        return "inverse" if any(b.cheap_direction == "inverse" for b in self.layers) else "forward"

    @property
    def is_constant_jacobian(self) -> bool:
        return all(layer.is_constant_jacobian for layer in self.layers)

    @property
    def is_constant_log_det(self) -> bool:
        return all(layer.is_constant_log_det for layer in self.layers)

    @property
    def domain(self) -> constraints.Constraint:
        return lift_constraint(self.layers[0].domain, self.event_ndims_in)

    @property
    def codomain(self) -> constraints.Constraint:
        return lift_constraint(self.layers[-1].codomain, self.event_ndims_out)

    @property
    def composition(self) -> tuple[Bijector, ...]:
        return tuple(part for layer in self.layers for part in layer.composition)

    @property
    def latent_shapes(self) -> tuple[Shape, ...] | None:
        return self.layers[0].latent_shapes

    def image_of(
        self, constraint: constraints.Constraint, direction: Direction = "forward"
    ) -> constraints.Constraint | None:
        image: constraints.Constraint | None = constraint
        for layer in self._ordered(direction):
            image = None if image is None else layer.image_of(image, direction)
        return image

    def check_data(self, caller: str, argument: str, value: Any) -> None:
        for layer in self.layers:
            layer.check_data(caller, argument, value)

    def forward_shape(self, shape: Shape) -> Shape:
        for layer in self.layers:
            shape = layer.forward_shape(shape)
        return shape

    def inverse_shape(self, shape: Shape) -> Shape:
        for layer in reversed(self.layers):
            shape = layer.inverse_shape(shape)
        return shape

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._run("forward", x, context)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._run("inverse", y, context)

    def _run(
        self, direction: Direction, value: Array, context: Array | None
    ) -> tuple[Array, Array]:
        total: Any = 0.0
        ndims_in = self._ndims(direction)
        for layer, ndims in zip(self._ordered(direction), ndims_in, strict=True):
            step = getattr(layer, f"{direction}_and_log_det")
            value, log_det = step(value, None if layer.context_shape is None else context)
            total = total + sum_last(log_det, ndims - layer._event_ndims(direction)[0])
        batch_ndims = value.ndim - self._event_ndims(direction)[1]
        return value, jnp.broadcast_to(total, value.shape[:batch_ndims])

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        layers = []
        for layer in self._ordered(direction):
            own_context = None if layer.context_shape is None else context
            layer, value = layer.data_init(value, own_context, direction)
            layers.append(layer)
        return Chain(layers if direction == "forward" else layers[::-1]), value


def _event_of(shape: Shape, ndims: int) -> Shape:
    """The last ``ndims`` sizes, without the batch axes that a layer's own context may add."""
    return shape[len(shape) - ndims :]


def as_bijector(transform: Any) -> Bijector:
    """``transform`` itself if it is a Bijector; a NumPyro or distrax object is wrapped.

    Raises:
      TypeError: for any other object.
    """
    if isinstance(transform, Bijector):
        return transform
    return Chain(transform.parts) if isinstance(transform, ComposeTransform) else Foreign(transform)


def common_context_shape(caller: str, argument: str, layers: Sequence[Bijector]) -> Shape | None:
    """The shape of the context that all layers with a context take; None if there are none.

    Raises:
      ValueError: if their context shapes differ.
    """
    shapes = {layer.context_shape for layer in layers if layer.context_shape is not None}
    if len(shapes) > 1:
        raise ValueError(
            f"{caller}: `{argument}` must agree on one context shape, got {sorted(shapes)}"
        )
    return next(iter(shapes), None)
