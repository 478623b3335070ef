"""The maximum mean discrepancy: a double loop, closed forms for normals, derivatives, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from flowdists.diagnostics import mmd
from tests.tolerances import AGREE_F32, FINITE_DIFFERENCE_F64, ROUND_TRIP_F64, STANDARD_ERRORS


def draws(seed, size, event_shape=(3,)):
    return np.random.default_rng(seed).normal(seed, 1.0 + seed, (size, *event_shape))


def kernel(a, b, bandwidth):
    return np.exp(-np.sum((a - b) ** 2) / (2 * bandwidth**2))


def by_loops(x, y, bandwidth):
    mean = lambda values: sum(values) / len(values)
    pairs = lambda s: [kernel(a, b, bandwidth) for i, a in enumerate(s) for b in np.delete(s, i, 0)]
    across = [kernel(a, b, bandwidth) for a in x for b in y]
    return mean(pairs(x)) + mean(pairs(y)) - 2 * mean(across)


class TestValue:
    @pytest.mark.parametrize(("n", "m"), [(2, 2), (5, 5), (7, 12), (12, 7)])
    def test_double_loop(self, n, m, x64):
        x, y = draws(0, n), draws(1, m)
        given = mmd(x, y, bandwidth=1.7)
        np.testing.assert_allclose(given, by_loops(x, y, 1.7), rtol=ROUND_TRIP_F64)

    @pytest.mark.parametrize(("n", "m"), [(2, 2), (5, 6), (40, 30), (1500, 700)])
    def test_the_bandwidth_is_the_median_distance_of_the_pooled_sample(self, n, m, x64):
        x, y = draws(0, n), draws(1, m)
        pooled = np.concatenate([x, y])
        size = min(n + m, 1000)
        median = np.median(pdist(pooled[np.linspace(0, n + m - 1, size).round().astype(int)]))
        given, expected = mmd(x, y), mmd(x, y, bandwidth=median)
        np.testing.assert_allclose(given, expected, rtol=ROUND_TRIP_F64)

    def test_batches_do_not_change_it(self, x64):
        x, y = draws(0, 37), draws(1, 50)
        values = [mmd(x, y, batch_size=size) for size in (1, 8, 37, 1000)]
        np.testing.assert_allclose(values, values[0], rtol=ROUND_TRIP_F64)

    def test_normals_in_closed_form(self, x64):
        """Mean and variance of many estimates, for equal and for different distributions."""
        bandwidth, repeats = 1.5, 400
        cov = np.array([[1.0, 0.5], [0.5, 2.0]])
        root = np.linalg.cholesky(cov)
        shift, scale = np.array([0.7, -0.2]), 1.3

        def mean_kernel(total_cov, difference):
            wide = total_cov + bandwidth**2 * np.eye(2)
            exponent = -difference @ np.linalg.solve(wide, difference) / 2
            return np.exp(exponent) / np.sqrt(np.linalg.det(wide / bandwidth**2))

        estimate = jax.jit(jax.vmap(lambda x, y: mmd(x, y, bandwidth=bandwidth)))
        noise = jax.random.normal(jax.random.key(0), (repeats, 70, 2)) @ root.T
        first, second = noise[:, :40], noise[:, 40:]
        expected = (
            mean_kernel(2 * cov, np.zeros(2))
            + mean_kernel(2 * scale**2 * cov, np.zeros(2))
            - 2 * mean_kernel((1 + scale**2) * cov, shift)
        )
        for other, value in ((second, 0.0), (shift + scale * second, expected)):
            estimates = np.asarray(estimate(first, other))
            error = estimates.std() / np.sqrt(repeats)
            assert abs(estimates.mean() - value) < STANDARD_ERRORS * error
            assert error < 0.1 * expected
            assert value > 0 or estimates.min() < 0

    def test_single_precision_far_from_the_origin(self):
        x, y = draws(0, 50).astype(np.float32), draws(1, 60).astype(np.float32)
        far = np.float32(2**12)
        x, y = (x + far) - far, (y + far) - far  # so that the shift is exact
        given, expected = mmd(x + far, y + far), mmd(x, y)
        assert given.dtype == jnp.float32
        np.testing.assert_allclose(given, expected, rtol=AGREE_F32, atol=AGREE_F32)

    @pytest.mark.parametrize("event_shape", [(), (2, 3)])
    def test_events_of_any_rank(self, event_shape):
        x, y = draws(0, 20, event_shape), draws(1, 30, event_shape)
        np.testing.assert_array_equal(mmd(x, y), mmd(x.reshape(20, -1), y.reshape(30, -1)))


class TestDerivatives:
    @pytest.mark.parametrize("bandwidth", [None, 1.7])
    def test_finite_differences(self, bandwidth, x64):
        x, y, direction = draws(0, 9), draws(1, 12), draws(2, 9)
        value = lambda step: mmd(x + step * direction, y, bandwidth=bandwidth, batch_size=4)
        expected = (value(1e-5) - value(-1e-5)) / 2e-5
        for derivative in (jax.jacfwd, jax.jacrev):
            given = jax.jit(derivative(value))(0.0)
            np.testing.assert_allclose(given, expected, atol=FINITE_DIFFERENCE_F64)

    def test_by_the_bandwidth(self, x64):
        x, y = draws(0, 9), draws(1, 12)
        value = lambda bandwidth: mmd(x, y, bandwidth=bandwidth)
        expected = (value(1.7 + 1e-5) - value(1.7 - 1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(value)(1.7), expected, atol=FINITE_DIFFERENCE_F64)

    def test_equal_draws_have_finite_ones(self):
        x = draws(0, 9)
        assert jnp.isfinite(jax.grad(lambda y: mmd(x, y))(x)).all()


def test_memory_does_not_grow_with_the_number_of_pairs():
    size = 4000
    x = jax.ShapeDtypeStruct((size, 2), jnp.float32)
    program = jax.jit(jax.value_and_grad(mmd)).lower(x, x).compile()
    all_pairs = size**2 * 4
    assert program.memory_analysis().temp_size_in_bytes < all_pairs / 2


def test_where_values_are_not_known_nan_is_kept():
    x, y = draws(0, 9), draws(1, 12)
    assert jnp.isnan(jax.jit(mmd)(x, np.where(y == y[3, 0], np.nan, y)))
    assert jnp.isnan(jax.jit(mmd)(np.ones((5, 2)), np.ones((5, 2))))


MISUSE = {
    "ints": (lambda: mmd(np.ones((5, 2), int), draws(0, 5)), ["`x`", "int"]),
    "one draw": (lambda: mmd(draws(0, 5), draws(0, 1)), ["`y`", "2 draws", "(1, 3)"]),
    "events": (lambda: mmd(draws(0, 5), draws(0, 5, (2,))), ["(5, 3)", "(5, 2)"]),
    "nan": (lambda: mmd(draws(0, 5), np.full((5, 3), np.nan)), ["`y`", "5 of 5", "index 0"]),
    "bandwidth": (
        lambda: mmd(draws(0, 5), draws(1, 5), bandwidth=0.0),
        ["`bandwidth`", "positive", "0.0"],
    ),
    "bandwidths": (
        lambda: mmd(draws(0, 5), draws(1, 5), bandwidth=jnp.ones(3)),
        ["`bandwidth`", "scalar", "(3,)"],
    ),
    "no median": (lambda: mmd(np.ones((5, 2)), np.ones((5, 2))), ["`bandwidth`", "zero"]),
    "batch size": (lambda: mmd(draws(0, 5), draws(1, 5), batch_size=0), ["`batch_size`", "0"]),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    call, words = MISUSE[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    for word in ["mmd: ", *words]:
        assert word in str(raised.value)
