"""The sliced Wasserstein distance: one dimension exactly, translations, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flowdists.diagnostics import sliced_wasserstein
from tests.tolerances import (
    AGREE_F32,
    FINITE_DIFFERENCE_F64,
    ROUND_TRIP_F32,
    ROUND_TRIP_F64,
    STANDARD_ERRORS,
)

SIZES = [(1, 1), (8, 8), (6, 9), (7, 12), (50, 1)]


def draws(seed, size, event_shape=(3,)):
    return np.random.default_rng(seed).normal(seed, 1.0 + seed, (size, *event_shape))


class TestOneDimension:
    @pytest.mark.parametrize(("n", "m"), SIZES)
    def test_order_one_by_scipy(self, key, n, m, x64):
        x, y = draws(0, n, ()), draws(1, m, ())
        for given in (sliced_wasserstein(key, *pair, p=1) for pair in ((x, y), (y, x))):
            expected = stats.wasserstein_distance(x, y)
            np.testing.assert_allclose(given, expected, rtol=ROUND_TRIP_F64)

    # The order does not interact with the merging of steps: a few combinations are enough.
    @pytest.mark.parametrize(("n", "m", "p"), [*((*s, 1.5) for s in SIZES), (6, 9, 2), (6, 9, 4)])
    def test_any_order_by_repetition(self, key, n, m, p, x64):
        """Repeating the draws does not change their distribution, and makes the sizes equal."""
        x, y = draws(0, n, (1,)), draws(1, m, (1,))
        size = np.lcm(n, m)
        gaps = np.sort(np.repeat(x, size // n)) - np.sort(np.repeat(y, size // m))
        expected = np.mean(np.abs(gaps) ** p) ** (1 / p)
        given = sliced_wasserstein(key, x, y, p=p)
        np.testing.assert_allclose(given, expected, rtol=ROUND_TRIP_F64)


class TestTranslations:
    shift = np.array([3.0, -1.0, 0.5])

    @pytest.mark.parametrize("p", [1, 2])
    def test_are_those_of_a_single_point(self, key, p, x64):
        """Along a direction, all draws move by the same distance."""
        x = draws(0, 40)
        expected = sliced_wasserstein(key, np.zeros((1, 3)), self.shift[None], p=p)
        for moved in (x + self.shift, np.repeat(x, 3, 0) + self.shift):
            given = sliced_wasserstein(key, x, moved, p=p)
            np.testing.assert_allclose(given, expected, rtol=ROUND_TRIP_F64)

    def test_in_all_directions(self, key, x64):
        """The squared cosine is beta distributed: mean 1/d, variance 2 (d-1) / (d^2 (d+2))."""
        number, d, length = 10_000, 3, self.shift @ self.shift
        x = draws(0, 5)
        given = sliced_wasserstein(key, x, x + self.shift, num_projections=number)
        error = length * np.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / number)
        assert abs(given**2 - length / d) < STANDARD_ERRORS * error


class TestShapes:
    def test_events_of_any_rank(self, key):
        x, y = draws(0, 20, (2, 3)), draws(1, 30, (2, 3))
        flat = sliced_wasserstein(key, x.reshape(20, 6), y.reshape(30, 6))
        np.testing.assert_array_equal(sliced_wasserstein(key, x, y), flat)

    def test_vmap_is_a_loop(self, key):
        x, y = (draws(seed, 4 * size).reshape(4, size, 3) for seed, size in ((0, 5), (1, 7)))
        distance = lambda x, y: sliced_wasserstein(key, x, y)
        whole = jax.jit(jax.vmap(distance))(x, y)
        single = [distance(*pair) for pair in zip(x, y, strict=True)]
        np.testing.assert_allclose(whole, single, rtol=AGREE_F32)

    def test_low_precision_is_computed_in_single(self, key):
        x, y = jnp.array(draws(0, 500), jnp.bfloat16), jnp.array(draws(1, 700), jnp.bfloat16)
        given = sliced_wasserstein(key, x, y)
        assert given.dtype == jnp.float32
        expected = sliced_wasserstein(key, x.astype(jnp.float32), y.astype(jnp.float32))
        np.testing.assert_allclose(given, expected, rtol=ROUND_TRIP_F32)


@pytest.mark.parametrize("p", [1, 2])
def test_finite_differences(key, p, x64):
    x, y, direction = draws(0, 6), draws(1, 9), draws(2, 6)
    value = lambda step: sliced_wasserstein(key, x + step * direction, y, num_projections=7, p=p)
    expected = (value(1e-6) - value(-1e-6)) / 2e-6
    given = jax.jit(jax.jacrev(value))(0.0)
    np.testing.assert_allclose(given, expected, atol=FINITE_DIFFERENCE_F64)


def test_where_values_are_not_known_nan_is_kept(key):
    x, y = draws(0, 9), draws(1, 12)
    y[3, 0] = np.nan
    assert jnp.isnan(jax.jit(sliced_wasserstein)(key, x, y))


KEY = jax.random.key(0)


def distance(x, y, key=KEY, **options):
    return sliced_wasserstein(key, x, y, **options)


MISUSE = {
    "key": (lambda: distance(draws(0, 5), draws(1, 5), key=0), ["`key`", "0"]),
    "ints": (lambda: distance(draws(0, 5), np.ones((5, 3), int)), ["`y`", "int"]),
    "no draws": (lambda: distance(draws(0, 0), draws(0, 5)), ["`x`", "(0, 3)"]),
    "events": (lambda: distance(draws(0, 5), draws(0, 5, (2,))), ["(5, 3)", "(5, 2)"]),
    "infinity": (lambda: distance(np.full((5, 3), np.inf), draws(0, 5)), ["`x`", "5 of 5"]),
    "projections": (
        lambda: distance(draws(0, 5), draws(1, 5), num_projections=0),
        ["`num_projections`", "0"],
    ),
    "order": (lambda: distance(draws(0, 5), draws(1, 5), p=0.5), ["`p`", "at least 1", "0.5"]),
    "no order": (lambda: distance(draws(0, 5), draws(1, 5), p=np.inf), ["`p`", "finite", "inf"]),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    call, words = MISUSE[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    for word in ["sliced_wasserstein: ", *words]:
        assert word in str(raised.value)
