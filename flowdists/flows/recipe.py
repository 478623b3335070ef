"""What recipes share: the registry of `save` and `load`, layers in pairs, shapes of images."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import numpy as np

from flowdists import _check
from flowdists.bases import make_base
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.repeat import Memory, Repeat
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
        default_shape = signature.parameters["event_shape"].default
        shape = _check.shape(name, "event_shape", options.pop("event_shape", default_shape))
        base = options.pop("base", None)
        bijector = make(key, shape, **options)
        base = make_base(name, base, bijector.event_shape)
        described = tuple((k, _hashable(v)) for k, v in sorted(options.items()))
        made_from = Recipe(name, shape, described)
        if bijector.context_shape is None:
            return Flow(base, bijector, recipe=made_from)
        num_classes = options.get("num_classes")
        return ConditionalFlow(base, bijector, recipe=made_from, num_classes=num_classes)

    functools.update_wrapper(wrapper, build)
    returned = signature.replace(return_annotation=Flow | ConditionalFlow)
    wrapper.__signature__ = returned  # type: ignore[attr-defined]
    RECIPES[name] = wrapper
    return wrapper


def alternate(
    caller: str,
    key: Array,
    make_layer: Callable[[Array, bool], Bijector],
    num_layers: int,
    *,
    memory: Memory = "store",
) -> Bijector:
    """Stack ``num_layers`` layers whose flag alternates, under one scan over pairs of them.

    Args:
      caller: the name of the recipe, for error messages.
      key: PRNG key.
      make_layer: builds a layer from a key and the flag (a mask's side, an order's sense).
      num_layers: how many; an odd last layer stands outside of the scan.
      memory: of the scan, as in :class:`~flowdists.Repeat`.
    """
    _check.positive_int(caller, "num_layers", num_layers)
    stack_key, last_key = jax.random.split(key)

    def make_pair(key: Array) -> Bijector:
        first, second = jax.random.split(key)
        return Chain([make_layer(first, False), make_layer(second, True)])

    parts: list[Bijector] = []
    if num_layers >= 2:
        parts.append(Repeat(stack_key, make_pair, num_layers // 2, memory=memory))
    if num_layers % 2:
        parts.append(make_layer(last_key, False))
    return Chain(parts)


def check_image(caller: str, event_shape: Shape, num_scales: int) -> Shape:
    """``event_shape``, if it is an image that can be halved ``num_scales`` times.

    Raises:
      ValueError: otherwise, with the nearest shapes that can.
    """
    height, width, channels = _check.image_shape(caller, event_shape)
    factor = 2 ** _check.positive_int(caller, "num_scales", num_scales)
    if height % factor or width % factor:
        nearest = [
            tuple(factor * max(1, f(n / factor)) for n in (height, width))
            for f in (math.floor, math.ceil)
        ]
        raise ValueError(
            f"{caller}: `event_shape` must have height and width that are multiples of {factor} "
            f"for {num_scales} scales, got {event_shape}; the nearest are "
            f"{(*nearest[0], channels)} and {(*nearest[1], channels)} (crop, or pad)"
        )
    return height, width, channels


def _hashable(value: Any) -> Any:
    """Options as configuration: sequences and arrays become tuples."""
    if isinstance(value, jax.Array | np.ndarray):
        return _hashable(np.asarray(value).tolist())
    if isinstance(value, list | tuple | range):
        return tuple(_hashable(item) for item in value)
    return value
