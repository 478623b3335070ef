"""What recipes share: the registry behind `save` and `load`, and layers stacked in pairs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import numpy as np

from flowdists import _check
from flowdists.bases import make_base
from flowdists.bijectors.base import Array, Bijector
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.repeat import Repeat
from flowdists.distribution import ConditionalFlow, Flow, Recipe

RECIPES: dict[str, Callable[..., Flow | ConditionalFlow]] = {}
"""Recipes by name. :func:`~flowdists.load` builds a saved flow's structure by calling one."""

Options = ParamSpec("Options")


def recipe(build: Callable[Options, Bijector]) -> Callable[Options, Any]:
    """Make a recipe of ``build(key, event_shape, *, base, context_shape, ...) -> Bijector``.

    The recipe checks key and shapes, gives the bijector its base, and returns a Flow, or a
    ConditionalFlow if there is a ``context_shape``. The flow remembers what it was built from.

    Type checkers see ``Any`` returned: which of the two it is depends on an option.
    """
    name = build.__name__
    signature = inspect.signature(build)
    make: Callable[..., Bijector] = build

    def wrapper(*args: Options.args, **kwargs: Options.kwargs) -> Any:
        try:
            options = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            known = ", ".join(signature.parameters)
            raise TypeError(f"{name}: {error}; the arguments are {known}") from None
        key = _check.key(name, options.pop("key"))
        shape = _check.shape(name, "event_shape", options.pop("event_shape"))
        base = make_base(name, options.pop("base", None), shape)
        bijector = make(key, shape, **options)
        described = tuple((k, _hashable(v)) for k, v in sorted(options.items()))
        made_from = Recipe(name, shape, described)
        if bijector.context_shape is None:
            return Flow(base, bijector, recipe=made_from)
        return ConditionalFlow(base, bijector, recipe=made_from)

    functools.update_wrapper(wrapper, build)
    returned = signature.replace(return_annotation=Flow | ConditionalFlow)
    wrapper.__signature__ = returned  # type: ignore[attr-defined]
    RECIPES[name] = wrapper
    return wrapper


def alternate(
    caller: str, key: Array, make_layer: Callable[[Array, bool], Bijector], num_layers: int
) -> Bijector:
    """Stack ``num_layers`` layers whose flag alternates, under one scan over pairs of them.

    Args:
      caller: the name of the recipe, for error messages.
      key: PRNG key.
      make_layer: builds a layer from a key and the flag (a mask's side, an order's sense).
      num_layers: how many; an odd last layer stands outside of the scan.
    """
    _check.positive_int(caller, "num_layers", num_layers)
    stack_key, last_key = jax.random.split(key)

    def make_pair(key: Array) -> Bijector:
        first, second = jax.random.split(key)
        return Chain([make_layer(first, False), make_layer(second, True)])

    parts: list[Bijector] = []
    if num_layers >= 2:
        parts.append(Repeat(stack_key, make_pair, num_layers // 2))
    if num_layers % 2:
        parts.append(make_layer(last_key, False))
    return Chain(parts)


def _hashable(value: Any) -> Any:
    """Options as configuration: sequences and arrays become tuples."""
    if isinstance(value, jax.Array | np.ndarray):
        return _hashable(np.asarray(value).tolist())
    if isinstance(value, list | tuple | range):
        return tuple(_hashable(item) for item in value)
    return value
