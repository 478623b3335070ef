"""Arithmetic with rounding errors carried along, against the same in double precision."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowdists._compensated import (
    Compensated,
    _product,
    compensated,
    linear,
    linear_inverse,
    rounded,
    scaled,
    shifted,
    unscaled,
)
from tests.tolerances import (
    AGREE_F32,
    COMPENSATED_F32,
    COMPENSATED_LAYER_F32,
    COMPENSATED_PRODUCT_F32,
    ROUND_TRIP_F32,
)

SIZE = 12


@pytest.fixture(autouse=True)
def optimized():
    """Compiled as users compile: without optimizations no product is contracted into a sum."""
    jax.config.update("jax_disable_most_optimizations", False)


def exact(x):
    return np.asarray(x.high, np.float64) + np.asarray(x.low, np.float64)


def values(seed, spread=3.0):
    """Values of many sizes, with rounding errors of their own."""
    draws = np.random.default_rng(seed)
    high = np.float32(
        draws.normal(size=(50, SIZE)) * np.exp(spread * draws.normal(size=(50, SIZE)))
    )
    return Compensated(high, np.float32(draws.uniform(-1.0, 1.0, high.shape) * 2.0**-26 * high))


def factors():
    """``L`` and ``U`` of a well-conditioned matrix."""
    noise = np.float32(0.3 * np.random.default_rng(0).normal(size=(2, SIZE, SIZE)))
    identity = np.eye(SIZE, dtype=np.float32)
    return identity + np.tril(noise[0], -1), identity + np.triu(noise[1], 1)


def in_few_bits(x):
    return np.asarray(x.astype(jnp.bfloat16), np.float32)


def assert_normalized(x):
    high, low = np.asarray(x.high), np.asarray(x.low)
    np.testing.assert_array_equal(high, high + low)


def assert_same(x, y):
    """Equal to more digits than either part has."""
    np.testing.assert_allclose(exact(x), exact(y), rtol=COMPENSATED_F32, atol=0.0)


class TestValues:
    def test_a_sum_is_the_exact_one(self):
        x, shift = values(0), values(1).high
        shift[0] = -x.high[0]
        shift = in_few_bits(shift)  # a shift's last bit is dropped
        result = jax.jit(shifted)(x, shift)
        expected = exact(x) + np.float64(shift)
        error = np.abs(exact(result) - expected)
        assert (error <= COMPENSATED_F32 * (np.abs(exact(x)) + np.abs(shift))).all()
        assert_normalized(result)

    def test_a_shift_that_the_compiler_could_contract_is_undone(self):
        """The shift is a product, which one program may round and the other one not."""
        x, a, b = values(0, spread=0.3), values(1).high, values(2).high
        product = a * b
        fused, there = jax.jit(lambda x, a, b: (x.high + a * b, shifted(x, a * b)))(x, a, b)
        if (np.asarray(fused) == x.high + product).all():
            pytest.skip("this compiler does not contract")
        back = jax.jit(shifted)(there, -product)
        error = np.abs(exact(back) - exact(x))
        assert (error <= COMPENSATED_F32 * (np.abs(exact(x)) + np.abs(product))).all()

    def test_a_product_is_the_exact_one(self):
        x, factor = values(0), values(1).high
        result = jax.jit(_product)(x, factor)
        expected = exact(x) * np.float64(factor)
        np.testing.assert_allclose(exact(result), expected, rtol=COMPENSATED_F32, atol=0.0)
        assert_normalized(result)

    def test_a_scale_is_undone(self):
        x, log_scale = values(0), values(1, spread=0.5).high
        there = jax.jit(scaled)(x, log_scale)
        np.testing.assert_allclose(
            exact(there), exact(x) * np.exp(np.float64(log_scale)), rtol=5 * AGREE_F32
        )
        back = jax.jit(unscaled)(there, log_scale)
        assert_normalized(there)
        assert_normalized(back)
        assert_same(back, x)
        assert_same(jax.jit(scaled)(jax.jit(unscaled)(x, log_scale), log_scale), x)

    @pytest.mark.parametrize("size", [1, 7, 300])
    def test_a_product_with_a_matrix_is_the_exact_one(self, size):
        draws = np.random.default_rng(size)
        spread = lambda deviation, *shape: np.exp(deviation * draws.normal(size=shape))
        high = np.float32(draws.normal(size=(20, size)) * spread(3.0, 20, size))
        x = Compensated(high, np.float32(2.0**-26) * high)
        matrix = np.float32(draws.normal(size=(size, size)) * spread(1.0, size, 1))
        result = jax.jit(linear)(x, matrix)
        double = np.float64(matrix)
        error = np.abs(exact(result) - exact(x) @ double.T)
        largest = np.abs(exact(x)).max(-1, keepdims=True) * np.abs(double).max(-1)
        assert (error <= size * COMPENSATED_PRODUCT_F32 * largest).all()
        assert_normalized(result)

    def test_a_matrix_is_undone(self):
        x, (lower, upper) = values(0, spread=0.3), factors()
        matrix = jnp.matmul(lower, upper, precision="highest")  # rounded as the inverse rounds it
        there = jax.jit(linear)(x, matrix)
        back = jax.jit(linear_inverse)(there, lower, upper)
        assert_normalized(back)
        largest = np.abs(exact(x)).max(-1, keepdims=True)
        assert (np.abs(exact(back) - exact(x)) <= COMPENSATED_LAYER_F32 * largest).all()

    def test_plain_arrays_stay_plain(self):
        x, shift, (lower, upper) = values(0).high, values(1, spread=0.5).high, factors()

        @jax.jit
        def results(x, shift):
            product = linear(linear_inverse(x, lower, upper), lower @ upper)
            return shifted(x, shift), scaled(x, shift), unscaled(x, shift), product

        moved, larger, smaller, product = results(x, shift)
        np.testing.assert_array_equal(moved, x + shift)
        np.testing.assert_allclose(larger, x * np.exp(shift), rtol=5 * AGREE_F32)
        np.testing.assert_allclose(smaller, x * np.exp(-shift), rtol=5 * AGREE_F32)
        np.testing.assert_allclose(product, x, atol=ROUND_TRIP_F32 * np.abs(x).max())

    def test_double_precision(self, x64):
        """Against rational numbers, of which 53 bits are all used."""
        x, factor = np.random.default_rng(0).normal(size=(2, 50))
        result = jax.tree.map(np.asarray, jax.jit(_product)(Compensated(x, 0 * x), factor))
        assert result.dtype == np.float64
        for a, b, high, low in zip(x, factor, result.high, result.low, strict=True):
            expected = Fraction(float(a)) * Fraction(float(b))
            error = Fraction(float(high)) + Fraction(float(low)) - expected
            assert abs(error) <= abs(expected) * Fraction(2) ** -100

    def test_half_precision_is_carried_in_single(self):
        x = jax.ShapeDtypeStruct((3,), jnp.bfloat16)
        assert jax.eval_shape(lambda x: shifted(compensated(x), x), x).dtype == jnp.float32


OPERATIONS = {
    "shifted": (shifted, lambda: (values(1).high,)),
    "scaled": (scaled, lambda: (values(1, spread=0.5).high,)),
    "unscaled": (unscaled, lambda: (values(1, spread=0.5).high,)),
    "linear": (linear, lambda: (np.matmul(*factors()),)),
    "linear_inverse": (linear_inverse, factors),
}
operations = pytest.mark.parametrize("name", OPERATIONS)


@functools.cache
def compiled(name):
    """Of values without errors and of parameters: the result, and the plain operation's."""
    operation, _ = OPERATIONS[name]
    return jax.jit(lambda x, *params: (operation(compensated(x), *params), operation(x, *params)))


@operations
def test_derivatives_are_those_of_the_plain_operation(name):
    """In forward and in reverse mode, with respect to the value and the parameters; and twice."""
    operation, make = OPERATIONS[name]
    x, params = values(0, spread=0.3).high, make()
    weights = np.float32(np.cos(np.arange(x.size).reshape(x.shape)))

    def derivatives(function, *arguments):
        loss = lambda *arguments: jnp.square(function(*arguments)).sum()
        slope = lambda x: jax.grad(loss, 1)(x, *arguments[1:])
        forward = jax.jvp(function, arguments, jax.tree.map(jnp.ones_like, arguments))[1]
        reverse = jax.vjp(function, *arguments)[1](weights)
        return (forward, reverse), jax.jvp(slope, arguments[:1], (jnp.ones_like(arguments[0]),))[1]

    carried = lambda x, *params: rounded(operation(compensated(x), *params))
    both = jax.jit(lambda *arguments: [derivatives(f, *arguments) for f in (carried, operation)])
    results = both(x, *params)
    for order, parts in enumerate(zip(*results, strict=True)):
        tolerance = (1.0, 10.0)[order] * ROUND_TRIP_F32
        for a, b in zip(*map(jax.tree.leaves, parts), strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@operations
@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-38, 1e-30, 1e30])
def test_extreme_sizes(name, size):
    result, plain = compiled(name)(np.full((50, SIZE), size, np.float32), *OPERATIONS[name][1]())
    assert np.isfinite(result.high).all() and np.isfinite(result.low).all()
    limit = ROUND_TRIP_F32 * np.abs(plain).max() + 1e-36  # below are numbers that may be flushed
    np.testing.assert_allclose(result.high, plain, rtol=ROUND_TRIP_F32, atol=limit)


@operations
def test_nan_is_not_hidden(name):
    x = values(0).high
    x[1] = np.nan
    result, _ = compiled(name)(x, *OPERATIONS[name][1]())
    np.testing.assert_array_equal(np.isnan(result.high).all(-1), np.arange(50) == 1)
