"""The sliced Wasserstein distance of two sets of draws."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.diagnostics._two_sets import two_sets

Array = jax.Array


def sliced_wasserstein(
    key: Array, x: Any, y: Any, *, num_projections: int = 100, p: float = 2
) -> Array:
    r"""Sliced Wasserstein distance of order ``p``, over random directions.

    .. math::
        \Big( \frac{1}{L} \sum_{l=1}^L W_p^p(\theta_l^\top x, \theta_l^\top y) \Big)^{1/p}, \qquad
        W_p^p(u, v) = \int_0^1 |F_u^{-1}(t) - F_v^{-1}(t)|^p dt

    with :math:`\theta_l` uniform on the unit sphere (Bonneel, Rabin, Peyré and Pfister 2015,
    https://doi.org/10.1007/s10851-014-0506-3). Sets of different sizes are compared exactly, by
    merging the steps of their quantile functions. In one dimension this is the Wasserstein distance
    itself.

    It is differentiable where it is positive, at fixed directions and order. Between finite sets
    from the same distribution it is positive: compare it with its value between two sets that are
    both from the reference.

    Args:
      key: PRNG key for the directions.
      x: draws, ``(n, *event_shape)``.
      y: draws, ``(m, *event_shape)``.
      num_projections: L, how many directions.
      p: order, at least 1.

    Returns:
      The distance, a scalar in the units of the draws.

    Raises:
      TypeError: for arguments of the wrong kind.
      ValueError: if shapes do not fit, values are not finite, or ``p`` is below 1.

    >>> from flowdists.diagnostics import sliced_wasserstein
    >>> x = jax.random.normal(jax.random.key(0), (500, 1))
    >>> bool(jnp.isclose(sliced_wasserstein(jax.random.key(1), x, x + 3.0), 3.0))
    True
    """
    caller = "sliced_wasserstein"
    key = _check.key(caller, key)
    x, y = two_sets(caller, x, y)
    num_projections = _check.positive_int(caller, "num_projections", num_projections)
    p = _check.positive(caller, "p", p)
    if p < 1:
        raise ValueError(f"{caller}: `p` must be at least 1, got {p}")
    steps = _merged_steps(len(x), len(y))
    return _distance(key, x, y, *steps, num_projections=num_projections, p=p)


def _merged_steps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The intervals where the quantile functions of n and of m draws are both constant.

    Returns:
      For each interval, in order: the index of the sorted draw in each set, and the length.
    """
    # In units of 1 / (n m) all ends are integers.
    ends = np.union1d(m * np.arange(n + 1), n * np.arange(m + 1))
    starts = ends[:-1]
    return starts // m, starts // n, np.diff(ends) / (n * m)


@functools.partial(jax.jit, static_argnames=("num_projections", "p"))
def _distance(
    key: Array,
    x: Array,
    y: Array,
    x_rows: Array,
    y_rows: Array,
    lengths: Array,
    *,
    num_projections: int,
    p: float,
) -> Array:
    directions = jax.random.normal(key, (num_projections, x.shape[-1]), x.dtype)
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    lengths = lengths.astype(x.dtype)

    def cost(direction: Array) -> Array:
        gaps = jnp.sort(x @ direction)[x_rows] - jnp.sort(y @ direction)[y_rows]
        return lengths @ jnp.abs(gaps) ** p

    # One direction at a time, because all together would take much more memory than the draws.
    return jax.lax.map(cost, directions).mean() ** (1 / p)
