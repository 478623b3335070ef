"""Stacks of layers of one structure, run by a scan over depth."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints

from flowdists import _check
from flowdists._constraints import same
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Direction
from flowdists.bijectors.compose.chain import as_bijector
from flowdists.bijectors.compose.reversible import Carry, reversible_scan, run_layer
from flowdists.bijectors.compose.wrapper import Delegating

Memory = Literal["store", "checkpoint", "invert"]


class Repeat(Delegating):
    """``num_layers`` layers of one structure, composed; the first is nearest to the base.

    Parameters are stacked along a leading axis and the layers run under :func:`jax.lax.scan`, so
    that the compiled program, and the time to compile it, do not grow with depth.

    Args:
      key: PRNG key, split among the layers.
      make_layer: builds one layer from a key. Layers differ only in their parameters.
      num_layers: number of layers.
      memory: what is kept of every layer for the backward pass. "store" keeps all that its
        derivative uses. "checkpoint" keeps its input, and runs it again. "invert" keeps nothing and
        computes the input from the output, so that memory does not grow with depth; the rounding
        errors of the inverse then enter gradients, and there are no forward-mode derivatives.

    Raises:
      TypeError: for an invalid key, or a ``make_layer`` that is not a function.
      ValueError: if ``num_layers < 1``, a layer changes the shape of events, or ``memory`` is
        unknown.

    >>> import jax
    >>> stack = Repeat(jax.random.key(0), lambda key: LULinear(key, (3,)), num_layers=4)
    >>> stack.forward(jax.numpy.ones((5, 3))).shape
    (5, 3)
    """

    layers: Bijector
    num_layers: int = static()
    memory: Memory = static(default="store")

    def __init__(
        self,
        key: Array,
        make_layer: Callable[[Array], Bijector],
        num_layers: int,
        *,
        memory: Memory = "store",
    ) -> None:
        if isinstance(make_layer, Bijector) or not callable(make_layer):
            raise TypeError(
                "Repeat: `make_layer` must be a function from a key to a layer, got "
                f"{type(make_layer).__name__}; Repeat.stack takes existing layers"
            )
        keys = jax.random.split(
            _check.key("Repeat", key), _check.positive_int("Repeat", "num_layers", num_layers)
        )
        self._set(jax.vmap(lambda key: as_bijector(make_layer(key)))(keys), num_layers, memory)

    @classmethod
    def stack(cls, layers: Sequence[Bijector], *, memory: Memory = "store") -> Repeat:
        """Stack existing layers, base side first; all must have one structure and equal shapes.

        Raises:
          ValueError: if there is no layer, or their structures differ.
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
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        node._set(stacked, len(layers), memory)
        return node

    def _set(self, layers: Bijector, num_layers: int, memory: Memory) -> None:
        self.layers = layers
        self.num_layers = num_layers
        self.memory = _check.one_of("Repeat", "memory", memory, get_args(Memory))
        if self.inner.event_shape != self.inner.event_shape_out:
            raise ValueError(
                f"Repeat: a layer must keep the event shape, got {self.inner.name} from "
                f"{self.inner.event_shape} to {self.inner.event_shape_out}"
            )

    @property
    def inner(self) -> Bijector:
        """A single layer with the shapes of its parameters in place of their values."""
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), self.layers)

    def __getitem__(self, index: int) -> Bijector:
        """Layer ``index``, counted from the base; a negative one counts from the data.

        Raises:
          IndexError: if there is no such layer.
        """
        position = range(self.num_layers)[operator.index(index)]
        return jax.tree.map(lambda a: a[position], self.layers)

    def __len__(self) -> int:
        return self.num_layers

    def image_of(
        self, constraint: constraints.Constraint, direction: Direction = "forward"
    ) -> constraints.Constraint | None:
        once = self.inner.image_of(constraint, direction)
        twice = None if once is None else self.inner.image_of(once, direction)
        return once if once is not None and twice is not None and same(once, twice) else None

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._scan("forward", x, context)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._scan("inverse", y, context)

    def _scan(
        self, direction: Direction, value: Array, context: Array | None
    ) -> tuple[Array, Array]:
        value = _promote(value, self.layers, context)
        zeros = jnp.zeros(value.shape[: value.ndim - self.event_ndims_in], value.dtype)
        if self.memory == "invert":
            return reversible_scan(direction, self.layers, (value, zeros), context)
        run: Callable[..., Carry] = functools.partial(run_layer, direction)
        if self.memory == "checkpoint":
            run = jax.checkpoint(run)

        def step(carry: Carry, layer: Bijector) -> tuple[Carry, None]:
            return run(layer, carry, context), None

        return jax.lax.scan(
            step, (value, zeros), self.layers, self.num_layers, reverse=direction == "inverse"
        )[0]

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        def step(value: Array, layer: Bijector) -> tuple[Array, Bijector]:
            layer, value = layer.data_init(value, context, direction)
            return value, layer

        value = _check.float_array("Repeat.data_init", "value", value)
        value = _promote(value, self.layers, context)
        value, layers = jax.lax.scan(
            step, value, self.layers, self.num_layers, reverse=direction == "inverse"
        )
        return _with_layers(self, layers), value


def _with_layers(stack: Repeat, layers: Bijector) -> Repeat:
    node = object.__new__(Repeat)
    node._set(layers, stack.num_layers, stack.memory)
    return node


def _promote(value: Array, layers: Bijector, context: Array | None) -> Array:
    """``value`` in the dtype of the layers' results, because a scan's carry cannot change dtype.

    It is at least float32: log-determinants are summed in it even if networks compute in less.
    """
    others = [*jax.tree.leaves(layers), *([] if context is None else [context])]
    return value.astype(jnp.result_type(value.dtype, *others, jnp.float32))
