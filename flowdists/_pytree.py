"""Classes that are pytrees: fields are leaves unless they are declared static.

Bijectors, networks and conditional flows all follow one rule: *the leaves are exactly the
parameters*. Configuration (shapes, masks, orders, activation functions) is declared with
:func:`static` and is part of the tree's structure. It must be hashable and have a plain ``==``, so
that a jitted function is compiled once for all values of the parameters.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def static(**kwargs: Any) -> Any:
    """Declare a dataclass field as configuration: hashable, and not a leaf of the pytree."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def make_pytree_class(cls: type) -> type:
    """Turn ``cls`` into a dataclass and register it once as a pytree with named key paths.

    A class that writes its own ``__init__`` keeps it; a class that declares no fields inherits
    its parent's. Unflattening never runs ``__init__``, because JAX unflattens with placeholders.
    """
    own_fields = inspect.get_annotations(cls)
    generate_init = "__init__" not in cls.__dict__ and bool(own_fields)
    dataclasses.dataclass(init=generate_init, eq=False, repr=False)(cls)
    fields = dataclasses.fields(cls)
    for field in fields:
        # The default stays in `__init__`'s signature. As a class attribute it would hide the
        # instance's value from objects that delegate by `__getattr__`, as `distrax.to_tfp` does.
        if field.name in cls.__dict__:
            delattr(cls, field.name)
    leaf_names = tuple(f.name for f in fields if not f.metadata.get("static", False))
    static_names = tuple(f.name for f in fields if f.metadata.get("static", False))

    def flatten_with_keys(node: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        children = [(jax.tree_util.GetAttrKey(n), getattr(node, n)) for n in leaf_names]
        return children, tuple(getattr(node, n) for n in static_names)

    def flatten(node: Any) -> tuple[list[Any], tuple[Any, ...]]:
        values = [getattr(node, n) for n in leaf_names]
        return values, tuple(getattr(node, n) for n in static_names)

    def unflatten(aux: tuple[Any, ...], children: Any) -> Any:
        node: Any = object.__new__(cls)
        for name, value in zip(leaf_names, children, strict=True):
            object.__setattr__(node, name, value)
        for name, value in zip(static_names, aux, strict=True):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def describe(node: Any) -> str:
    """Write ``node`` as ``Name(field=value, ...)``, arrays shortened to dtype and shape."""
    parts = [f"{f.name}={_short(getattr(node, f.name, None))}" for f in dataclasses.fields(node)]
    return f"{type(node).__name__}({', '.join(parts)})"


def _short(value: Any) -> str:
    if isinstance(value, jax.Array | np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple | list) and len(value) > 8:
        return f"<{len(value)} items>"
    if isinstance(value, tuple | list):
        inner = ", ".join(_short(v) for v in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    return getattr(value, "__name__", None) or repr(value)


class Frozen:
    """A hashable holder of any pytree, for use as configuration; arrays are compared by value."""

    def __init__(self, value: Any) -> None:
        leaves, treedef = jax.tree_util.tree_flatten(value)
        self.value = jax.tree_util.tree_unflatten(treedef, [_to_numpy(v) for v in leaves])
        self._key = (treedef, tuple(_leaf_key(_to_numpy(v)) for v in leaves))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Frozen({self.value!r})"


def _to_numpy(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf


def _leaf_key(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return (leaf.dtype.str, leaf.shape, leaf.tobytes())
    return leaf


def is_float_array(leaf: Any) -> bool:
    """Whether ``leaf`` of a foreign pytree is a JAX array (or tracer) of floats."""
    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)


def is_traced(leaf: Any) -> bool:
    """Whether ``leaf`` of a foreign pytree is a tracer, whose value is not known."""
    return isinstance(leaf, jax.core.Tracer)


class Partitioned:
    """A foreign pytree, split into leaves that stay leaves and configuration.

    The configuration becomes part of the tree's structure. This allows objects whose leaves are not
    all parameters (an Equinox module, for example, has its activation function as a leaf).

    Args:
      tree: the foreign pytree.
      is_leaf: which of its leaves stay leaves.
    """

    def __init__(self, tree: Any, is_leaf: Callable[[Any], bool]) -> None:
        leaves, self._treedef = jax.tree_util.tree_flatten(tree)
        self._slots = tuple(is_leaf(leaf) for leaf in leaves)
        slots = list(zip(self._slots, leaves, strict=True))
        self.leaves = [leaf for is_ours, leaf in slots if is_ours]
        self._rest = Frozen([None if is_ours else leaf for is_ours, leaf in slots])

    def merge(self) -> Any:
        """The original tree, with the current leaves."""
        ours = iter(self.leaves)
        slots = zip(self._slots, self._rest.value, strict=True)
        leaves = [next(ours) if is_ours else other for is_ours, other in slots]
        return jax.tree_util.tree_unflatten(self._treedef, leaves)


def _flatten_partitioned(node: Partitioned) -> tuple[list[Any], tuple[Any, ...]]:
    return list(node.leaves), (node._treedef, node._rest, node._slots)


def _unflatten_partitioned(aux: tuple[Any, ...], children: Any) -> Partitioned:
    node = object.__new__(Partitioned)
    node.leaves = list(children)
    node._treedef, node._rest, node._slots = aux
    return node


jax.tree_util.register_pytree_node(Partitioned, _flatten_partitioned, _unflatten_partitioned)
