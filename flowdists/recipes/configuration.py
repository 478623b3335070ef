"""A recipe's options as configuration: plain values that can be compared, hashed and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpyro.distributions import constraints

from flowdists.bijectors.compose.concatenated import Concatenation

Spec = tuple[Any, ...]


def describe(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Options by name, sorted. An embedding, or a support that cannot be saved, becomes a type."""
    described = dict(options)
    if described.get("embedding") is not None:
        described["embedding"] = type(described["embedding"])
    if "support" in described:
        described["support"] = _support_spec(described["support"])
    return tuple((name, _hashable(value)) for name, value in sorted(described.items()))


def canonical_support(support: Any) -> Any:
    """``support``, or its specification, in the form in which a file returns it.

    A support that cannot be saved is returned as it is.
    """
    spec = _support_spec(support)
    return _build(spec) if isinstance(spec, tuple) else support


def _support_spec(support: Any) -> Any:
    """``support`` as nested tuples, or its type if that is not possible."""
    if support is None or _is_spec(support):
        return support
    try:
        return _describe(support)
    except TypeError:
        return type(support)


def _is_spec(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], str)


def _describe(support: Any) -> Spec:
    if isinstance(support, Sequence) and not isinstance(support, str):
        return ("each", *map(_describe, support))
    if isinstance(support, Concatenation):
        return ("concatenation", tuple(map(_describe, support.parts)), support.shapes)
    if isinstance(support, constraints.independent):
        base = _describe(support.base_constraint)
        return ("independent", base, support.reinterpreted_batch_ndims)
    for name, public in _CONSTRAINTS.items():
        if public is support:
            return (name,)
        if type(support) is public:
            children, (_, static) = support.tree_flatten()
            if not static:
                return (name, *(_hashable(np.asarray(child)) for child in children))
    raise TypeError(f"{support!r} is not one of numpyro's public constraints")


def _build(spec: Spec) -> Any:
    kind, *arguments = spec
    if kind == "each":
        return tuple(map(_build, arguments))
    if kind == "concatenation":
        return Concatenation([_build(part) for part in arguments[0]], arguments[1])
    if kind == "independent":
        return constraints.independent(_build(arguments[0]), arguments[1])
    if kind not in _CONSTRAINTS:
        raise ValueError(f"`support` must be a constraint of numpyro, got {kind!r}")
    public = _CONSTRAINTS[kind]
    if isinstance(public, constraints.Constraint):
        return public
    return public(*(np.asarray(a) if isinstance(a, tuple) else a for a in arguments))


def _is_constraint(value: Any) -> bool:
    is_class = isinstance(value, type) and issubclass(value, constraints.Constraint)
    return is_class or isinstance(value, constraints.Constraint)


_CONSTRAINTS: dict[str, Any] = {
    name: value
    for name, value in sorted(vars(constraints).items())
    if not name.startswith("_") and _is_constraint(value)
}
"""NumPyro's public constraints, and their classes, by name."""


def _hashable(value: Any) -> Any:
    """``value`` with tuples in place of sequences and arrays."""
    if isinstance(value, jax.Array | np.ndarray):
        return _hashable(np.asarray(value).tolist())
    if isinstance(value, list | tuple | range):
        return tuple(_hashable(item) for item in value)
    return value
