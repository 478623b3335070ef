"""Stacks of layers whose masks or orders alternate."""

from __future__ import annotations

from collections.abc import Callable

import jax

from flowdists import _check
from flowdists.bijectors.base import Array, Bijector
from flowdists.bijectors.compose.chain import Chain
from flowdists.bijectors.compose.repeat import Memory, Repeat


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
      caller: name of the recipe, for error messages.
      key: PRNG key.
      make_layer: builds a layer from a key and the flag (a mask's side, an order's direction).
      num_layers: number of layers; an odd last one is outside of the scan.
      memory: memory of the scan, as in :class:`~flowdists.Repeat`.
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
