"""A test of ranks for uniformity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from flowdists import _check

_TIE = 1e-9  # tail probabilities with a smaller relative difference are equal up to rounding


def uniformity_pvalues(ranks: Mapping[str, Any], num_draws: int) -> dict[str, np.ndarray]:
    """P-values of the ranks being uniform on 0, ..., ``num_draws``.

    The statistic is the least plausible value of the empirical distribution function: the minimum
    over all ranks of its two-sided binomial tail probability (Säilynoja, Bürkner and Vehtari 2022,
    https://arxiv.org/abs/2103.10522). It is sensitive in the tails as well as in the middle. Its
    distribution is computed exactly, without bins or asymptotics, for any number of simulations.

    Every scalar of every site is tested by itself: among 100 p-values of a calibrated posterior,
    the smallest is about 0.01.

    Args:
      ranks: ints by site, ``(num_simulations, *shape)``, as from :func:`~flowdists.sbc_ranks`.
      num_draws: the largest possible rank.

    Returns:
      P-values by site, ``shape``.

    Raises:
      TypeError: if ranks are not ints.
      ValueError: if there are none, or one is negative or above ``num_draws``.

    >>> import numpy as np
    >>> even, narrow = np.arange(100) % 10, np.arange(100) % 2 * 9
    >>> p_values = uniformity_pvalues({"even": even, "narrow": narrow}, num_draws=9)
    >>> bool(p_values["even"] > 0.9), bool(p_values["narrow"] < 1e-9)
    (True, True)
    """
    caller = "uniformity_pvalues"
    num_draws = _check.positive_int(caller, "num_draws", num_draws)
    p_values = {}
    for name, given in ranks.items():
        values = np.asarray(given)
        if not np.issubdtype(values.dtype, np.integer):
            raise TypeError(f"{caller}: `ranks` of {name!r} must be ints, got {values.dtype}")
        if values.ndim == 0 or values.shape[0] == 0:
            raise ValueError(
                f"{caller}: `ranks` of {name!r} must have shape (num_simulations, ...), got "
                f"{values.shape}"
            )
        if values.size and not 0 <= values.min() <= values.max() <= num_draws:
            raise ValueError(
                f"{caller}: `ranks` of {name!r} must be from 0 to `num_draws`={num_draws}, got "
                f"{values.min()} to {values.max()}"
            )
        columns = values.reshape(len(values), -1)
        p_values[name] = _pvalues(columns, num_draws).reshape(values.shape[1:])
    return p_values


def _pvalues(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """The test of :func:`uniformity_pvalues`, for each column."""
    size, num_ranks = len(ranks), num_draws + 1
    counts = np.stack([(ranks <= cut).sum(axis=0) for cut in range(num_draws)])
    tails = _tail_probabilities(size, np.arange(1, num_ranks) / num_ranks)
    statistic = np.take_along_axis(tails, counts, axis=1).min(axis=0)
    levels, columns = np.unique(statistic, return_inverse=True)

    # Counts of uniform ranks are distributed as those of a Poisson process given their sum.
    rate, counts = size / num_ranks, np.arange(size + 1)
    step = np.trim_zeros(_poisson(rate, counts), "b")
    left = rate * np.arange(num_draws, 0, -1)
    rest = _poisson(left[:, None], size - counts)
    ended = np.array([_first_passage((1 + _TIE) * level, tails, step, rest) for level in levels])
    p_values = ended / _poisson(size, np.array(size))
    return np.minimum(p_values, 1.0)[columns.ravel()]


def _first_passage(level: float, tails: np.ndarray, step: np.ndarray, rest: np.ndarray) -> float:
    """Probability that some tail is at most ``level``, and that there are ``size`` ranks.

    The counts up to each cut are a Markov chain. The chain ends at the first cut whose tail is at
    most ``level``; this sums the probabilities of all such ends. Until then the possible counts are
    one interval, because tails rise and then fall.

    Args:
      level: the observed tail.
      tails: tail probabilities, ``(cut, count)``.
      step: probability of each increment from one cut to the next, from 0 on.
      rest: probability of the ranks above the cut that complete ``size``, ``(cut, count)``.
    """
    state, start = np.ones(1), 0  # probabilities of the counts from `start` on
    ended = 0.0
    for tail, remaining in zip(tails, rest, strict=True):
        state = np.convolve(state, step)[: len(tail) - start]
        reached = slice(start, start + len(state))
        ends = tail[reached] <= level
        ended += state[ends] @ remaining[reached][ends]
        going_on = np.flatnonzero(~ends)
        if not going_on.size:
            break
        state = state[going_on[0] : going_on[-1] + 1]
        start += going_on[0]
    return ended


def _tail_probabilities(size: int, probabilities: np.ndarray) -> np.ndarray:
    """The smaller binomial tail, ``(probability, count)``, each including the count itself."""
    count, probability = np.arange(size + 1), probabilities[:, None]
    lower = special.bdtr(count, size, probability)
    upper = special.bdtrc(count - 1, size, probability)
    return np.minimum(lower, upper)


def _poisson(rate: Any, count: Any) -> np.ndarray:
    return np.exp(special.xlogy(count, rate) - rate - special.gammaln(count + 1))
