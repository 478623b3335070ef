"""Functions that make a flow: how to tell them, and which can do with one dimension."""

from __future__ import annotations

import functools
from typing import Any

import jax

from flowdists.flows import MAF, NSF, Glow1D, RealNVP


def is_factory(flow: Any) -> bool:
    """Whether ``flow`` is a function that makes one, rather than a pytree that can be called."""
    return callable(flow) and jax.tree_util.all_leaves([flow])


def for_one_dimension(flow: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A recipe that can do with one dimension, in place of one that couples two."""
    if isinstance(flow, functools.partial) and not flow.args:
        flow, options = flow.func, flow.keywords | options
    if flow is NSF:
        return NSF, options | {"autoregressive": True}
    if flow in (RealNVP, Glow1D):
        return MAF, {name: value for name, value in options.items() if name != "mask"}
    return flow, options
