"""Where the rows of each epoch come from: the same ones again, or fresh ones from a stream."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from flowdists import _check
from flowdists.distribution import ConditionalFlow, Flow
from flowdists.training.rows import (
    Data,
    Transform,
    check_data,
    fraction_of,
    held_out_rows,
    normalized,
    split,
)

Array = jax.Array
Epochs = Iterator[Data]


def open_source(
    key: Array,
    flow: Flow | ConditionalFlow,
    x: Any,
    context: Any,
    weights: Any,
    validation: Any,
    transform: Transform | None,
    batches_per_epoch: int,
) -> tuple[Epochs, Data | None]:
    """The rows of each epoch, and those held out.

    Args:
      key: PRNG key, for the choice of the rows held out.
      flow: the flow that is trained.
      x: rows; or an iterator of ``x``, ``(x, context)`` or ``(x, context, weights)``.
      context: as in :func:`~flowdists.fit`; None with an iterator.
      weights: as in :func:`~flowdists.fit`; None with an iterator.
      validation: as in :func:`~flowdists.fit`.
      transform: as in :func:`~flowdists.fit`.
      batches_per_epoch: how many of an iterator's batches make an epoch.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if one is out of range or of the wrong shape; if an iterator is empty.
    """
    if not isinstance(x, Iterator):
        data = check_data(flow, x, context, weights, transform)
        data, held_out = split(key, flow, data, validation, transform)
        return itertools.repeat(data), held_out
    for argument, given in (("context", context), ("weights", weights)):
        if given is not None:
            raise ValueError(
                f"fit: `{argument}` was given beside an iterator for `x`, which must yield it: "
                "(x, context) or (x, context, weights)"
            )
    size = _check.positive_int("fit", "batches_per_epoch", batches_per_epoch)
    held_out = held_out_rows(flow, validation, transform)
    part = fraction_of(validation)
    if part:
        held_out = _next_rows(flow, x, max(1, round(part * size)), transform)
        if held_out is None:
            raise ValueError("fit: `x` is an iterator that yields nothing, expected batches")
    epochs = iter(lambda: _next_rows(flow, x, size, transform), None)
    first = next(epochs, None)
    if first is None:
        raise ValueError(
            "fit: `x` is an iterator without batches to train on"
            + (f", after those held out by `validation`={part}" if part else "")
        )
    return itertools.chain([first], epochs), held_out


def _next_rows(
    flow: Flow | ConditionalFlow, batches: Iterator[Any], count: int, transform: Transform | None
) -> Data | None:
    """The rows of the next batches, as many as ``count`` or as are left; None without any."""
    parts = []
    for batch in itertools.islice(batches, count):
        entries = batch if isinstance(batch, tuple) else (batch,)
        if not 1 <= len(entries) <= 3:
            raise ValueError(
                "fit: `x` as an iterator must yield x, (x, context) or (x, context, weights), got "
                f"{len(entries)} entries"
            )
        x, context, weights = (*entries, None, None)[:3]
        parts.append(check_data(flow, x, context, weights, transform, prefix="a batch's "))
    if not parts:
        return None
    return normalized(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts))
