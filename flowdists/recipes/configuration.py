"""Supports as configuration: plain tuples that can be compared, hashed and written to a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpyro.distributions import constraints

from flowdists.bijectors.concatenated import Concatenation

Spec = tuple[Any, ...]


def canonical_support(support: Any) -> Any:
    """``support``, or its specification, as it comes back from a file.

    What cannot be written is returned as it is.
    """
    try:
        return _build(_describe(support))
    except TypeError:
        return _build(support) if _is_spec(support) else support


def describe_support(support: Any) -> Any:
    """``support`` as nested tuples, or its type if there is no way to write it so."""
    try:
        return _describe(support)
    except TypeError:
        return type(support)


def _is_spec(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], str)


def _build(spec: Spec) -> Any:
    kind, *arguments = spec
    if kind == "each":
        return tuple(map(_build, arguments))
    if kind == "concatenation":
        return Concatenation([_build(part) for part in arguments[0]], arguments[1])
    if kind == "independent":
        return constraints.independent(_build(arguments[0]), arguments[1])
    if kind not in _names():
        raise ValueError(f"`support` must be a constraint of numpyro, got {kind!r}")
    found = getattr(constraints, kind)
    if isinstance(found, constraints.Constraint):
        return found
    return found(*(np.asarray(a) if isinstance(a, tuple) else a for a in arguments))


def _describe(support: Any) -> Spec:
    if isinstance(support, Sequence) and not isinstance(support, str):
        return ("each", *map(_describe, support))
    if isinstance(support, Concatenation):
        return ("concatenation", tuple(map(_describe, support.parts)), support.shapes)
    if isinstance(support, constraints.independent):
        return (
            "independent",
            _describe(support.base_constraint),
            support.reinterpreted_batch_ndims,
        )
    for name in _names():
        found = getattr(constraints, name)
        if found is support:
            return (name,)
        if type(support) is found:
            children, (_, static) = support.tree_flatten()
            if not static:
                return (name, *map(_as_tuple, children))
    raise TypeError(f"{support!r} is not one of numpyro's public constraints")


def _names() -> list[str]:
    return sorted(name for name, value in vars(constraints).items() if _is_constraint(name, value))


def _is_constraint(name: str, value: Any) -> bool:
    is_class = isinstance(value, type) and issubclass(value, constraints.Constraint)
    return name[0] != "_" and (is_class or isinstance(value, constraints.Constraint))


def _as_tuple(value: Any) -> Any:
    return _nested(np.asarray(value).tolist())


def _nested(value: Any) -> Any:
    return tuple(map(_nested, value)) if isinstance(value, list) else value
