"""P-values of uniform ranks, against enumeration and closed forms."""

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from flowdists.diagnostics import uniformity_pvalues
from tests.tolerances import ROUND_TRIP_F64, STANDARD_ERRORS


def test_enumeration():
    """All sequences of four ranks, with the statistic by its definition."""
    size, num_draws = 4, 3
    sequences = np.array(list(itertools.product(range(num_draws + 1), repeat=size)))
    cuts = np.arange(num_draws)
    counts = (sequences[:, :, None] <= cuts).sum(1)
    binomial = stats.binom(size, (cuts + 1) / (num_draws + 1))
    statistic = np.minimum(binomial.cdf(counts), binomial.sf(counts - 1)).min(1)
    expected = np.mean(statistic <= statistic[:, None] * (1 + ROUND_TRIP_F64), axis=1)
    given = uniformity_pvalues({"all": sequences.T}, num_draws)["all"]
    np.testing.assert_allclose(given, expected, rtol=ROUND_TRIP_F64)


@pytest.mark.parametrize(("size", "num_draws"), [(30, 7), (200, 100), (1000, 9)])
def test_uniform_ranks_are_rejected_as_often_as_promised(size, num_draws):
    columns = 2000
    ranks = np.random.default_rng(0).integers(0, num_draws + 1, (size, columns))
    p_values = uniformity_pvalues({"x": ranks.reshape(size, 2, -1)}, num_draws)["x"]
    assert p_values.shape == (2, columns // 2)
    assert 0 < p_values.min() < p_values.max() <= 1
    for level in (0.01, 0.1, 0.5):
        # P-values of a discrete statistic may be larger than uniform ones, but never smaller.
        error = np.sqrt(level * (1 - level) / columns)
        assert np.mean(p_values <= level) < level + STANDARD_ERRORS * error
    assert np.mean(p_values <= 0.1) > 0.05


def test_many_simulations():
    """With two possible ranks it is the two-sided binomial test. It needs little memory."""
    size = 20_000
    ranks = np.arange(size) < size / 2 + np.array([[0], [-35], [120], [400]])
    expected = [stats.binomtest(int(row.sum()), size).pvalue for row in ranks]
    given = uniformity_pvalues({"all": ranks.T.astype(int)}, 1)["all"]
    np.testing.assert_allclose(given, expected, rtol=10 * ROUND_TRIP_F64)

    even = np.arange(size) % 10
    tracemalloc.start()
    try:
        p_values = uniformity_pvalues({"even": even, "off": np.maximum(even, 1)}, 9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert p_values["even"] > 0.99 and p_values["off"] < 1e-9
    assert peak < 1e3 * 8 * size


def test_extremes():
    even = np.tile(np.arange(100), 20)
    p_values = uniformity_pvalues({"even": even, "same": np.zeros(2000, int)}, 99)
    assert p_values["even"] > 0.99
    assert p_values["same"] == 0.0  # 100 ** -2000, and a little


def given_ranks(values):
    return uniformity_pvalues({"z": values}, 5)


MISUSE = {
    "float ranks": (lambda: given_ranks(np.zeros(3)), ["ints", "float64"]),
    "ranks too high": (lambda: given_ranks(np.arange(7)), ["num_draws", "0 to 6"]),
    "no ranks": (lambda: given_ranks(np.zeros((0, 2), int)), ["num_simulations", "(0, 2)"]),
    "number of draws": (lambda: uniformity_pvalues({}, 0), ["num_draws", "0"]),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    call, words = MISUSE[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    for word in words:
        assert word in str(raised.value)
