"""The maximum mean discrepancy of two sets of draws."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.diagnostics._two_sets import two_sets

Array = jax.Array
_MEDIAN_DRAWS = 1000  # the median of half a million distances has an error of about one per cent


def mmd(x: Any, y: Any, *, bandwidth: Any = None, batch_size: int = 32) -> Array:
    r"""Squared maximum mean discrepancy, the unbiased estimate, with a Gaussian kernel.

    .. math::
        \frac{\sum_{i \neq j} k(x_i, x_j)}{n (n - 1)}
        + \frac{\sum_{i \neq j} k(y_i, y_j)}{m (m - 1)}
        - \frac{2 \sum_{i, j} k(x_i, y_j)}{n m}, \qquad k(a, b) = e^{-|a - b|^2 / (2 h^2)}

    (Gretton, Borgwardt, Rasch, Schölkopf and Smola 2012, equation 3,
    https://jmlr.org/papers/v13/gretton12a.html.) Between equal distributions its expectation is
    zero, so that the estimate can be slightly negative, and you cannot take its root. Only values
    with the same bandwidth compare.

    The kernel depends on the units of the elements; standardize them first if they differ. The time
    grows as :math:`(n + m)^2 d`, the memory as ``batch_size`` :math:`(n + m) d`, also for
    gradients. Gradients are exact, and include the choice of the bandwidth.

    Args:
      x: draws, ``(n, *event_shape)``, at least 2.
      y: draws, ``(m, *event_shape)``, at least 2.
      bandwidth: h, in the units of the draws; by default the median distance between all pairs of
        the pooled sample, or of 1000 evenly spaced draws of it if there are more.
      batch_size: how many draws are compared with all others at a time. The value does not depend
        on it.

    Returns:
      A scalar, at most 2.

    Raises:
      TypeError: if the draws are not floating point.
      ValueError: if shapes do not fit, values are not finite, the bandwidth is not positive, or
        more than half of the distances are zero and no bandwidth is given. Under ``jit``, where
        values are not known, the result for such draws is NaN.

    >>> from flowdists.diagnostics import mmd
    >>> x, y = jax.random.normal(jax.random.key(0), (2, 100, 3))
    >>> bool(jnp.abs(mmd(x, y)) < 0.02), bool(mmd(x, y + 1.0) > 0.1)
    (True, True)
    """
    caller = "mmd"
    x, y = two_sets(caller, x, y, min_draws=2)
    batch_size = _check.positive_int(caller, "batch_size", batch_size)
    return _estimate(x, y, _bandwidth(caller, x, y, bandwidth), batch_size=batch_size)


def _bandwidth(caller: str, x: Array, y: Array, given: Any) -> Array:
    if given is None:
        median = _median_distance(x, y)
        if not isinstance(median, jax.core.Tracer) and median == 0:
            raise ValueError(
                f"{caller}: `bandwidth` must be given, got None: more than half of the distances "
                "between draws, whose median it would be, are zero"
            )
        return median
    if jnp.ndim(given) != 0:
        raise ValueError(f"{caller}: `bandwidth` must be a scalar, got shape {jnp.shape(given)}")
    if not isinstance(given, jax.core.Tracer):
        _check.positive(caller, "bandwidth", given)
    return jnp.asarray(given, x.dtype)


@jax.jit
def _median_distance(x: Array, y: Array) -> Array:
    """The median distance between all pairs of draws in the pooled sample, or in a subset of it."""
    pooled = jnp.concatenate([x, y])
    size = min(len(pooled), _MEDIAN_DRAWS)
    pooled = pooled[np.linspace(0, len(pooled) - 1, size).round().astype(int)]
    fixed = jax.lax.stop_gradient(pooled)  # differentiate the pairs, not the search
    squared = jnp.square(fixed[:, None] - fixed).sum(-1)
    # In this order: the zeros of the diagonal, then every pair twice.
    num_pairs = size * (size - 1) // 2
    middle = jnp.argsort(squared.ravel())[size + num_pairs - 1 : size + num_pairs + 1]
    return jnp.linalg.norm(pooled[middle // size] - pooled[middle % size], axis=-1).mean()


@functools.partial(jax.jit, static_argnames="batch_size")
def _estimate(x: Array, y: Array, bandwidth: Array, *, batch_size: int) -> Array:
    n, m = len(x), len(y)
    x, y = (draws / (math.sqrt(2) * bandwidth) for draws in (x, y))
    similarity = functools.partial(_similarity, batch_size=batch_size)
    # The kernel of a draw and itself, which is one, does not count.
    within_x = (similarity(x, x) - 1).sum() / (n * (n - 1))
    within_y = (similarity(y, y) - 1).sum() / (m * (m - 1))
    return within_x + within_y - 2 * similarity(x, y).sum() / (n * m)


def _similarity(a: Array, b: Array, *, batch_size: int) -> Array:
    """Sum of the kernels of each draw in ``a`` with all in ``b``, ``(n,)``."""
    columns = b.T  # pairs along the last axis are several times faster on a CPU

    @jax.checkpoint  # otherwise the backward pass keeps all kernels
    def row(point: Array) -> Array:
        # Not |a|^2 + |b|^2 - 2ab, which loses all digits far from the origin.
        return jnp.exp(-jnp.square(point[:, None] - columns).sum(0)).sum()

    return jax.lax.map(row, a, batch_size=min(batch_size, len(a)))
