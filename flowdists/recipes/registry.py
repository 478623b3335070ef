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
from flowdists.bijectors.context_elementwise import ContextElementwise
from flowdists.bijectors.embedded import Embedded
from flowdists.bijectors.repeat import Memory, Repeat
from flowdists.bijectors.support import support_of
from flowdists.distribution import ConditionalFlow, Flow, Recipe
from flowdists.networks.embedding import Embedding
from flowdists.recipes.configuration import canonical_support, describe_support
from flowdists.transformers import Affine

RECIPES: dict[str, Callable[..., Flow | ConditionalFlow]] = {}
"""Recipes by name. :func:`~flowdists.load` builds a saved flow's structure by calling one."""

Options = ParamSpec("Options")


def recipe(build: Callable[Options, Bijector]) -> Callable[Options, Any]:
    """Make a recipe of ``build(key, event_shape, *, base, context_shape, ...) -> Bijector``.

    The recipe checks key and shapes, gives the bijector its base, and returns a Flow, or a
    ConditionalFlow if there is a ``context_shape``. The flow remembers what it was built from. What
    can stand around any recipe's layers is done here, for those whose signatures have it:
    ``num_classes``, ``embedding``, ``conditional_base`` and ``support``.

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
        if "support" in options:  # once written and read, so that a loaded flow has the same
            options["support"] = canonical_support(options["support"])
        made_from = Recipe(name, shape, _described(options))
        bijector = _build(name, make, signature, key, shape, dict(options))
        base = make_base(name, base, bijector.event_shape)
        if bijector.context_shape is None:
            return Flow(base, bijector, recipe=made_from)
        num_classes = options.get("num_classes")
        return ConditionalFlow(base, bijector, recipe=made_from, num_classes=num_classes)

    functools.update_wrapper(wrapper, build)
    returned = signature.replace(return_annotation=Flow | ConditionalFlow)
    wrapper.__signature__ = returned  # type: ignore[attr-defined]
    RECIPES[name] = wrapper
    return wrapper


def _build(
    caller: str,
    make: Callable[..., Bijector],
    signature: inspect.Signature,
    key: Array,
    event_shape: Shape,
    options: dict[str, Any],
) -> Bijector:
    """The recipe's own layers, between what every recipe can have around them."""
    embedding = options.pop("embedding", None)
    support = options.pop("support", None)
    conditional_base = options.pop("conditional_base", False)
    layers: list[Bijector] = []
    if support is not None:
        layers.append(support_of(caller, support, event_shape))
        event_shape = layers[0].inverse_shape(event_shape)
    num_classes = options.pop("num_classes", None)
    context_shape = _context_shape(caller, options.get("context_shape"), num_classes)
    if context_shape is None:
        for argument, given in (("embedding", embedding), ("conditional_base", conditional_base)):
            if given is not None and given is not False:
                raise ValueError(
                    f"{caller}: `{argument}` is for conditional flows, and there is no context: "
                    "give `context_shape` or `num_classes`"
                )
        return _chained([make(key, event_shape, **options), *layers])
    inner_shape = context_shape
    if embedding is not None:
        inner_shape = (Embedding(caller, embedding, context_shape).output_size(caller),)
    if conditional_base:
        key, base_key = jax.random.split(key)
        sizes = options.get("hidden_sizes", signature.parameters["hidden_sizes"].default)
        shift_and_scale = ContextElementwise(
            base_key, Affine(scale="exp"), event_shape, inner_shape, hidden_sizes=sizes
        )
        layers.insert(0, shift_and_scale)
    main = make(key, event_shape, **{**options, "context_shape": inner_shape})
    layers.insert(1 if conditional_base else 0, main)
    if num_classes is not None and embedding is None:
        return _chained(layers)  # there is nothing to standardize
    return Embedded(_chained(layers), context_shape, embedding=embedding)


def _context_shape(caller: str, context_shape: Any, num_classes: Any) -> Shape | None:
    if num_classes is None:
        return _check.optional_shape(caller, "context_shape", context_shape)
    if context_shape is not None:
        raise ValueError(
            f"{caller}: `num_classes` ({num_classes}) and `context_shape` ({context_shape}) were "
            "both given, expected one of them"
        )
    return (_check.positive_int(caller, "num_classes", num_classes),)


def _chained(layers: list[Bijector]) -> Bijector:
    return layers[0] if len(layers) == 1 else Chain(layers)


def _described(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Options as configuration; of those that cannot be, the type."""
    described = dict(options)
    if described.get("embedding") is not None:
        described["embedding"] = type(described["embedding"])
    if described.get("support") is not None:
        described["support"] = describe_support(described["support"])
    return tuple((name, _hashable(value)) for name, value in sorted(described.items()))


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
