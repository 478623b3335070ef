"""Equal layers in a stack, run by a scan over depth."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from flowdists import _check
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Direction
from flowdists.bijectors.foreign import as_bijector
from flowdists.bijectors.wrapper import Wrapper


class Repeat(Wrapper):
    """``num_layers`` layers of one structure, composed; the first is nearest to the base.

    Parameters are stacked along a leading axis and the layers run under :func:`jax.lax.scan`, so
    that the compiled program, and the time to compile it, do not grow with depth.

    Args:
      key: PRNG key, split among the layers.
      make_layer: builds one layer from a key. Layers differ in their parameters only.
      num_layers: how many.

    Raises:
      TypeError: for a key that is not a key, or a ``make_layer`` that is not a function.
      ValueError: if ``num_layers < 1``, or a layer changes the shape of events.

    >>> import jax
    >>> stack = Repeat(jax.random.key(0), lambda key: LULinear(key, (3,)), num_layers=4)
    >>> stack.forward(jax.numpy.ones((5, 3))).shape
    (5, 3)
    """

    layers: Bijector
    num_layers: int = static()

    def __init__(
        self, key: Array, make_layer: Callable[[Array], Bijector], num_layers: int
    ) -> None:
        if isinstance(make_layer, Bijector) or not callable(make_layer):
            raise TypeError(
                "Repeat: `make_layer` must be a function from a key to a layer, got "
                f"{type(make_layer).__name__}; Repeat.stack takes layers that exist"
            )
        keys = jax.random.split(
            _check.key("Repeat", key), _check.positive_int("Repeat", "num_layers", num_layers)
        )
        self._set(jax.vmap(lambda key: as_bijector(make_layer(key)))(keys), num_layers)

    @classmethod
    def stack(cls, layers: Sequence[Bijector]) -> Repeat:
        """Stack existing layers, base side first; all must have one structure and equal shapes.

        Raises:
          ValueError: if there is none, or their structures differ.
        """
        if not layers:
            raise ValueError("Repeat.stack: `layers` must hold at least one layer, got none")
        structures = {jax.tree.structure(layer) for layer in layers}
        shapes = {tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(layer)) for layer in layers}
        if len(structures) > 1 or len(shapes) > 1:
            raise ValueError(
                "Repeat.stack: `layers` must have one structure and equal parameter shapes, got "
                f"{len(structures)} structures and {len(shapes)} sets of shapes"
            )
        node = object.__new__(cls)
        node._set(jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers), len(layers))
        return node

    def _set(self, layers: Bijector, num_layers: int) -> None:
        self.layers = layers
        self.num_layers = num_layers
        if self._inner.event_shape != self._inner.event_shape_out:
            raise ValueError(
                f"Repeat: a layer must keep the event shape, got {self._inner.name} from "
                f"{self._inner.event_shape} to {self._inner.event_shape_out}"
            )

    @property
    def _inner(self) -> Bijector:
        """A single layer with the shapes of its parameters in place of their values."""
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), self.layers)

    def __getitem__(self, index: int) -> Bijector:
        """Layer ``index``, counted from the base; negative ones from the data.

        Raises:
          IndexError: if there is no such layer.
        """
        position = range(self.num_layers)[operator.index(index)]
        return jax.tree.map(lambda a: a[position], self.layers)

    def __len__(self) -> int:
        return self.num_layers

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._scan("forward", x, context)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._scan("inverse", y, context)

    def _scan(
        self, direction: Direction, value: Array, context: Array | None
    ) -> tuple[Array, Array]:
        def step(carry: tuple[Array, Array], layer: Bijector) -> tuple[tuple[Array, Array], None]:
            value, total = carry
            value, log_det = getattr(layer, f"{direction}_and_log_det")(value, context)
            return (value, total + log_det), None

        value = _promote(value, self.layers, context)
        zeros = jnp.zeros(value.shape[: value.ndim - self.event_ndims_in], value.dtype)
        (value, total), _ = jax.lax.scan(
            step, (value, zeros), self.layers, self.num_layers, reverse=direction == "inverse"
        )
        return value, total

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        def step(value: Array, layer: Bijector) -> tuple[Array, Bijector]:
            layer, value = layer.data_init(value, context, direction)
            return value, layer

        value = _promote(jnp.asarray(value), self.layers, context)
        value, layers = jax.lax.scan(
            step, value, self.layers, self.num_layers, reverse=direction == "inverse"
        )
        return _with_layers(self, layers), value


def _with_layers(stack: Repeat, layers: Bijector) -> Repeat:
    node = object.__new__(Repeat)
    node._set(layers, stack.num_layers)
    return node


def _promote(value: Array, layers: Bijector, context: Array | None) -> Array:
    """``value`` in the dtype that the layers will give it, for a scan's carry cannot change dtype.

    At least float32, in which log-determinants accumulate even if networks compute in less.
    """
    others = [*jax.tree.leaves(layers), *([] if context is None else [context])]
    return value.astype(jnp.result_type(value, *others, jnp.float32))
