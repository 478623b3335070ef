"""Readable names of parameters, the current ones and those of older files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util

from flowdists.bijectors.base import Bijector

RENAMED: dict[int, dict[str, str]] = {
    1: {  # the network of a `SplitPrior`; a MADE has a `context_weight` as well, but not in a scale
        r"(?<!embedding)\.network\.(conv\.\w+|log_gain)$": r".conditioner.\1",
        r"(\.scales\[.*)\.network\.context_weight$": r"\1.conditioner.context_weight",
    },
}
"""New names of parameters, by the last format version of files with the old names.

Each entry is a pattern of :mod:`re`, found anywhere in a name, and its replacement. A field that is
renamed needs an entry here, under the version before the current one.
"""


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


def renamed(arrays: Mapping[str, np.ndarray], version: int) -> dict[str, np.ndarray]:
    """The arrays of a file of format ``version`` under their current names."""
    result = dict(arrays)
    for last, table in sorted(RENAMED.items()):
        if version <= last:
            for pattern, replacement in table.items():
                result = {re.sub(pattern, replacement, name): a for name, a in result.items()}
    return result


def named_parameters(bijector: Bijector) -> dict[str, np.ndarray]:
    """The parameters of ``bijector`` by name.

    Raises:
      TypeError: for a leaf that is traced, or not a floating-point array.
    """
    leaves = named_leaves(bijector, "bijector")
    for name, leaf in leaves.items():
        if isinstance(leaf, jax.core.Tracer):
            raise TypeError(
                f"save: `{name}` is traced; a flow cannot be saved under jit, grad or vmap"
            )
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
            given = getattr(leaf, "dtype", type(leaf).__name__)
            raise TypeError(f"save: `{name}` must be a floating-point array, got {given}")
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def fill(structure: Bijector, arrays: dict[str, np.ndarray], origin: str) -> Bijector:
    """The bijector of ``structure`` with the parameters in ``arrays``.

    Raises:
      ValueError: for a parameter that is missing, unexpected, or of another shape or dtype; the
        message starts with ``origin``.
    """
    slots = named_leaves(structure, "bijector")
    for name, slot in slots.items():
        if name not in arrays:
            raise ValueError(f"{origin} has no parameter `{name}`, which the flow's structure has")
        if arrays[name].shape != slot.shape:
            raise ValueError(
                f"{origin} has `{name}` of shape {arrays[name].shape}, but the flow's structure "
                f"takes shape {slot.shape}"
            )
        if not jnp.issubdtype(arrays[name].dtype, jnp.floating):
            raise ValueError(f"{origin} has `{name}` of dtype {arrays[name].dtype}, not floating")
        if not is_supported(arrays[name].dtype):
            raise ValueError(
                f"{origin} has float64 parameters (`{name}`), and JAX's 64-bit mode is off: turn "
                'it on with `jax.config.update("jax_enable_x64", True)`'
            )
    unexpected = next((name for name in arrays if name not in slots), None)
    if unexpected is not None:
        raise ValueError(
            f"{origin} has a parameter `{unexpected}`, which the flow's structure does not have"
        )
    return jax.tree.unflatten(
        jax.tree.structure(structure), [jnp.asarray(arrays[name]) for name in slots]
    )


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Whether JAX, in its current precision, keeps arrays of ``dtype`` as they are."""
    return jax.dtypes.canonicalize_dtype(dtype) == dtype
