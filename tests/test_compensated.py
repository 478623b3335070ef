"""Arithmetic with rounding errors carried along, against the same in double precision."""

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
    keys = jax.random.split(jax.random.key(seed), 3)
    high = jax.random.normal(keys[0], (50, SIZE))
    high = high * jnp.exp(spread * jax.random.normal(keys[1], high.shape))
    low = jax.random.uniform(keys[2], high.shape, minval=-1.0, maxval=1.0) * 2.0**-26 * high
    return Compensated(high, low)


def factors(seed=0, scale=0.3):
    """``L`` and ``U`` of a well-conditioned matrix."""
    noise = scale * jax.random.normal(jax.random.key(seed), (2, SIZE, SIZE))
    return jnp.eye(SIZE) + jnp.tril(noise[0], -1), jnp.eye(SIZE) + jnp.triu(noise[1], 1)


def assert_normalized(x):
    np.testing.assert_array_equal(x.high, (x.high + x.low).astype(x.dtype))


def assert_same(x, y):
    """Equal to more digits than either part has."""
    np.testing.assert_allclose(exact(x), exact(y), rtol=COMPENSATED_F32, atol=0.0)


class TestValues:
    def test_a_sum_is_the_exact_one(self):
        x, shift = values(0), values(1).high.at[0].set(-values(0).high[0])
        shift = shift.astype(jnp.bfloat16).astype(jnp.float32)  # a shift's last bit is dropped
        result = jax.jit(shifted)(x, shift)
        expected = exact(x) + np.float64(shift)
        error = np.abs(exact(result) - expected)
        assert (error <= COMPENSATED_F32 * (np.abs(exact(x)) + np.abs(shift))).all()
        assert_normalized(result)

    def test_a_shift_that_the_compiler_could_contract_is_undone(self):
        """The shift is a product, which one program may round and the other one not."""
        x, a, b = values(0, spread=0.3), values(1).high, values(2).high
        fused = jax.jit(lambda x, a, b: x.high + a * b)(x, a, b)
        if (fused == x.high + jax.jit(jnp.multiply)(a, b)).all():
            pytest.skip("this compiler does not contract")
        there = jax.jit(lambda x, a, b: shifted(x, a * b))(x, a, b)
        product = jax.jit(jnp.multiply)(a, b)
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
        assert_same(scaled(unscaled(x, log_scale), log_scale), x)

    @pytest.mark.parametrize("size", [1, 2, 7, 48, 300])
    def test_a_product_with_a_matrix_is_the_exact_one(self, size):
        keys = jax.random.split(jax.random.key(size), 4)
        high = jax.random.normal(keys[0], (20, size)) * jnp.exp(
            3.0 * jax.random.normal(keys[1], (20, size))
        )
        x = Compensated(high, 2.0**-26 * high)
        matrix = jax.random.normal(keys[2], (size, size)) * jnp.exp(
            jax.random.normal(keys[3], (size, 1))
        )
        result = jax.jit(linear)(x, matrix)
        double = np.float64(matrix)
        error = np.abs(exact(result) - exact(x) @ double.T)
        largest = np.abs(exact(x)).max(-1, keepdims=True) * np.abs(double).max(-1)
        assert (error <= size * COMPENSATED_PRODUCT_F32 * largest).all()
        assert_normalized(result)

    def test_a_matrix_is_undone(self):
        x, (lower, upper) = values(0, spread=0.3), factors()
        matrix = jnp.matmul(lower, upper, precision="highest")
        there = jax.jit(linear)(x, matrix)
        back = jax.jit(linear_inverse)(there, lower, upper)
        assert_normalized(back)
        largest = np.abs(exact(x)).max(-1, keepdims=True)
        assert (np.abs(exact(back) - exact(x)) <= COMPENSATED_LAYER_F32 * largest).all()

    def test_plain_arrays_stay_plain(self):
        x, shift, (lower, upper) = values(0).high, values(1).high, factors()
        np.testing.assert_array_equal(shifted(x, shift), x + shift)
        np.testing.assert_array_equal(scaled(x, shift), x * jnp.exp(shift))
        np.testing.assert_array_equal(unscaled(x, shift), x * jnp.exp(-shift))
        np.testing.assert_allclose(
            linear(linear_inverse(x, lower, upper), lower @ upper),
            x,
            atol=ROUND_TRIP_F32 * float(jnp.abs(x).max()),
        )

    def test_double_precision(self, x64):
        """Against rational numbers, of which 53 bits are all used."""
        x, factor = (jax.random.normal(jax.random.key(seed), (50,)) for seed in (0, 1))
        result = jax.jit(_product)(compensated(x), factor)
        assert result.dtype == jnp.float64
        for a, b, high, low in zip(x, factor, result.high, result.low, strict=True):
            expected = Fraction(float(a)) * Fraction(float(b))
            error = Fraction(float(high)) + Fraction(float(low)) - expected
            assert abs(error) <= abs(expected) * Fraction(2) ** -100

    def test_half_precision_is_carried_in_single(self):
        x = jnp.ones(3, jnp.bfloat16)
        assert shifted(compensated(x), x).dtype == jnp.float32


OPERATIONS = {
    "shifted": (shifted, lambda: (values(1).high,)),
    "scaled": (scaled, lambda: (values(1, spread=0.5).high,)),
    "unscaled": (unscaled, lambda: (values(1, spread=0.5).high,)),
    "linear": (linear, lambda: (factors()[0] @ factors()[1],)),
    "linear_inverse": (linear_inverse, factors),
}
operations = pytest.mark.parametrize("name", OPERATIONS)


@operations
def test_derivatives_are_those_of_the_plain_operation(name):
    """In forward and in reverse mode, with respect to the value and the parameters."""
    operation, make = OPERATIONS[name]
    x, params = values(0, spread=0.3).high, make()
    plain = lambda x, *params: operation(x, *params)
    carried = lambda x, *params: rounded(operation(compensated(x), *params))
    weights = jnp.cos(jnp.arange(x.size).reshape(x.shape))
    tangents = jax.tree.map(jnp.ones_like, (x, *params))
    for derivative in (
        lambda f: jax.jvp(f, (x, *params), tangents)[1],
        lambda f: jax.vjp(f, x, *params)[1](weights),
    ):
        pairs = zip(
            jax.tree.leaves(derivative(carried)), jax.tree.leaves(derivative(plain)), strict=True
        )
        for a, b in pairs:
            np.testing.assert_allclose(
                a, b, rtol=ROUND_TRIP_F32, atol=ROUND_TRIP_F32 * float(jnp.abs(b).max())
            )


@operations
def test_second_derivatives_too(name):
    operation, make = OPERATIONS[name]
    x, params = values(0, spread=0.3).high[:2], make()
    params = tuple(p[:2] if p.shape[0] == 50 else p for p in params)

    def curvature(operation):
        loss = lambda x, *params: jnp.square(operation(x, *params)).sum()
        gradient = lambda x: jax.grad(loss, 1)(x, *params)
        return jax.jvp(gradient, (x,), (jnp.ones_like(x),))[1]

    carried = curvature(lambda x, *params: rounded(operation(compensated(x), *params)))
    plain = curvature(operation)
    limit = 10 * ROUND_TRIP_F32 * float(jnp.abs(plain).max())
    np.testing.assert_allclose(carried, plain, rtol=10 * ROUND_TRIP_F32, atol=limit)


@operations
@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-38, 1e-30, 1e30])
def test_extreme_sizes(name, size):
    operation, make = OPERATIONS[name]
    x, params = jnp.full((50, SIZE), size), make()
    result = operation(compensated(x), *params)
    assert jnp.isfinite(result.high).all() and jnp.isfinite(result.low).all()
    plain = operation(x, *params)
    limit = ROUND_TRIP_F32 * jnp.abs(plain).max() + 1e-36  # below are numbers that may be flushed
    np.testing.assert_allclose(result.high, plain, rtol=ROUND_TRIP_F32, atol=limit)


@operations
def test_nan_is_not_hidden(name):
    operation, make = OPERATIONS[name]
    x = values(0).high.at[1].set(jnp.nan)
    undefined = jnp.isnan(rounded(operation(compensated(x), *make()))).all(-1)
    np.testing.assert_array_equal(undefined, jnp.arange(50) == 1)
