"""Block-triangular recurrences through several layers, in one network's worth of work."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Read = Callable[[int], Array]
Write = Callable[[int, Array], None]

_MAX_SEGMENTS = 8


class Stage(NamedTuple):
    """A linear map between two vectors that are arranged in levels.

    Attributes:
      weight: ``(sum(row_sizes), sum(column_sizes))``, block lower triangular.
      row_sizes: how many outputs each level has.
      column_sizes: how many inputs each level has.
    """

    weight: Array
    row_sizes: np.ndarray
    column_sizes: np.ndarray


def sweep(
    stages: Sequence[Stage],
    inputs: Any,
    input_sizes: Any,
    body: Callable[[Read, Write, Any], Any],
    batch_shape: tuple[int, ...],
    dtype: Any,
) -> Any:
    """Run ``body`` for level after level, with products of what it has written so far."""
    known: list[list[Array]] = [[] for _ in stages]
    results = []
    sizes = [s for stage in stages for s in stage[1:]] + jax.tree.leaves(input_sizes)
    for segment in _segments(np.stack(sizes)):
        buffers, outputs = _run_segment(
            segment, stages, known, inputs, input_sizes, body, batch_shape, dtype
        )
        for pieces, buffer in zip(known, buffers, strict=True):
            pieces.append(buffer)
        results.append(outputs)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


def _run_segment(segment, stages, known, inputs, input_sizes, body, batch_shape, dtype):
    far, near, buffers = [], [], []
    count = segment.stop - segment.start
    for stage, pieces in zip(stages, known, strict=True):
        rows = _span(stage.row_sizes, segment)
        columns = _span(stage.column_sizes, segment)
        height = stage.row_sizes[segment.start]
        width = columns.stop - columns.start
        block = stage.weight[rows, columns].reshape(count, height, width)
        near.append(block)
        if columns.start:
            product = jnp.tensordot(stage.weight[rows, : columns.start], jnp.concatenate(pieces), 1)
            far.append(product.reshape(count, height, *batch_shape))
        else:
            far.append(jnp.zeros(count, dtype))
        buffers.append(jnp.zeros((width, *batch_shape), dtype))

    blocks = jax.tree.map(
        lambda value, sizes: value[_span(sizes, segment)].reshape(
            count, sizes[segment.start], *value.shape[1:]
        ),
        inputs,
        input_sizes,
    )

    def step(carry, xs):
        index, buffers = carry
        far, near, blocks = xs
        buffers = list(buffers)

        def read(k):
            return far[k] + jnp.tensordot(near[k], buffers[k], 1)

        def write(k, block):
            start = index * block.shape[0]
            buffers[k] = jax.lax.dynamic_update_slice_in_dim(buffers[k], block, start, 0)

        outputs = body(read, write, blocks)
        return (index + 1, tuple(buffers)), outputs

    (_, buffers), outputs = jax.lax.scan(step, (0, tuple(buffers)), (far, near, blocks))
    return buffers, jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), outputs)


def _segments(sizes: np.ndarray) -> list[slice]:
    num_levels = sizes.shape[1]
    longest = -(-num_levels // _MAX_SEGMENTS)
    segments = []
    start = 0
    for _, run in itertools.groupby(range(num_levels), key=lambda i: tuple(sizes[:, i])):
        stop = start + len(list(run))
        pieces = -(-(stop - start) // longest)
        cuts = start + (stop - start) * np.arange(pieces + 1) // pieces
        segments += [slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
        start = stop
    return segments


def _span(sizes: np.ndarray, levels: slice) -> slice:
    return slice(int(sizes[: levels.start].sum()), int(sizes[: levels.stop].sum()))
