"""Block-triangular recurrences through several layers, at the cost of one network evaluation."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Read = Callable[[int], Array]
Write = Callable[[int, Array], None]

# More segments mean less work and smaller products in the loops, but more code to compile. On a
# CPU, two segments take 1.3 times as long as four at 64 dimensions and 1.6 times at 256; eight are
# hardly faster than four.
_NUM_SEGMENTS = 4
_MIN_LEVELS = 8


class Stage(NamedTuple):
    """A linear map between two vectors, both arranged in levels.

    Attributes:
      weight: ``(sum(row_sizes), sum(column_sizes))``, block lower triangular.
      row_sizes: number of outputs in each level.
      column_sizes: number of inputs in each level.
    """

    weight: Array
    row_sizes: np.ndarray
    column_sizes: np.ndarray


def sweep(
    stages: Sequence[Stage],
    inputs: Any,
    input_sizes: Any,
    body: Callable[[Read, Write, Any], Any],
    like: Array,
) -> Any:
    """Run ``body`` on one level after another, with products of all that it wrote so far.

    Each weight is used once over the whole sweep. As in a blocked triangular solve, the levels are
    cut into segments. The contribution of earlier segments to a segment is one large matrix
    product. Only the contribution of a segment to itself is computed level by level, in a scan, on
    buffers that are small enough for the cache.

    Args:
      stages: the linear maps.
      inputs: a pytree of arrays ``(features, ...)``; the body sees one level of them at a time.
      input_sizes: for each of them, how many of its features each level has.
      body: ``body(read, write, blocks)`` computes one level. ``write(k, block)`` stores this
        level's inputs of stage ``k``; ``read(k)`` is this level's output of stage ``k``, computed
        from what has been written so far, with zeros for the rest.
      like: an array ``(features, *batch)`` that gives the blocks' batch shape and dtype.

    Returns:
      What ``body`` returned, its leaves ``(features, ...)`` concatenated over the levels.
    """
    pieces: list[list[Array]] = [[] for _ in stages]
    results = []
    all_sizes = [s for stage in stages for s in stage[1:]] + jax.tree.leaves(input_sizes)
    for levels in _segments(np.stack(all_sizes)):
        buffers = [
            jnp.zeros((int(stage.column_sizes[levels].sum()), *like.shape[1:]), like.dtype)
            for stage in stages
        ]
        near_and_far = [
            _split(stage, levels, written) for stage, written in zip(stages, pieces, strict=True)
        ]
        by_level = functools.partial(_by_level, levels)
        blocks = jax.tree.map(by_level, inputs, input_sizes)
        buffers, outputs = _run_segment(body, buffers, near_and_far, blocks)
        for written, buffer in zip(pieces, buffers, strict=True):
            written.append(buffer)
        results.append(jax.tree.map(_join_levels, outputs))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


def _split(stage: Stage, levels: slice, written: list[Array]) -> tuple[Array, Array]:
    """For each level, the weights within the segment, and the product with earlier segments."""
    columns = _span(stage.column_sizes, levels)
    near = _by_level(levels, stage.weight[:, columns], stage.row_sizes)
    if columns.start == 0:
        return near, jnp.zeros(len(near), near.dtype)
    rows = _span(stage.row_sizes, levels)
    far = jnp.tensordot(stage.weight[rows, : columns.start], jnp.concatenate(written), 1)
    return near, far.reshape(*near.shape[:2], *far.shape[1:])


def _run_segment(
    body: Callable[[Read, Write, Any], Any],
    buffers: list[Array],
    near_and_far: list[tuple[Array, Array]],
    blocks: Any,
) -> tuple[list[Array], Any]:
    def step(carry: Any, level: Any) -> tuple[Any, Any]:
        index, buffers = carry
        near_and_far, blocks = level
        buffers = list(buffers)

        def read(k: int) -> Array:
            near, far = near_and_far[k]
            return jnp.tensordot(near, buffers[k], 1) + far

        def write(k: int, block: Array) -> None:
            start = index * block.shape[0]
            buffers[k] = jax.lax.dynamic_update_slice_in_dim(buffers[k], block, start, 0)

        outputs = body(read, write, blocks)
        return (index + 1, buffers), outputs

    (_, buffers), outputs = jax.lax.scan(step, (0, buffers), (near_and_far, blocks))
    return buffers, outputs


def _segments(sizes: np.ndarray) -> list[slice]:
    """Cut the levels, the columns of ``sizes``, into runs of equal columns and limited length."""
    longest = max(_MIN_LEVELS, -(-sizes.shape[1] // _NUM_SEGMENTS))
    segments = []
    for _, run in itertools.groupby(range(sizes.shape[1]), key=lambda i: tuple(sizes[:, i])):
        levels = list(run)
        count = -(-len(levels) // longest)
        cuts = levels[0] + len(levels) * np.arange(count + 1) // count
        segments += [slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
    return segments


def _by_level(levels: slice, value: Array, sizes: np.ndarray) -> Array:
    """The features of a segment's levels, ``(levels, features of one level, ...)``."""
    block = value[_span(sizes, levels)]
    return block.reshape(levels.stop - levels.start, int(sizes[levels.start]), *value.shape[1:])


def _join_levels(blocks: Array) -> Array:
    """The inverse of :func:`_by_level`."""
    levels, features, *rest = blocks.shape
    return blocks.reshape(levels * features, *rest)


def _span(sizes: np.ndarray, levels: slice) -> slice:
    return slice(int(sizes[: levels.start].sum()), int(sizes[: levels.stop].sum()))
