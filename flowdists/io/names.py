"""Readable names for the leaves of a pytree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import tree_util


def named_leaves(
    tree: Any, prefix: str, is_leaf: Callable[[Any], bool] | None = None
) -> dict[str, Any]:
    """The leaves of ``tree`` by the Python expression that reaches them, in leaf order.

    >>> list(named_leaves({"a": [1.0, 2.0]}, "tree"))
    ["tree['a'][0]", "tree['a'][1]"]
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf)
    return {prefix + "".join(map(_step, path)): leaf for path, leaf in paths}


def _step(entry: Any) -> str:
    # `jax.tree_util.keystr` writes some of these differently from release to release.
    if isinstance(entry, tree_util.GetAttrKey):
        return f".{entry.name}"
    if isinstance(entry, tree_util.SequenceKey):
        return f"[{entry.idx}]"
    if isinstance(entry, tree_util.DictKey | tree_util.FlattenedIndexKey):
        return f"[{entry.key!r}]"
    return f"[{entry}]"
