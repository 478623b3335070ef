"""The rational-quadratic spline at the ends of its range, of its parameters and of precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.transformers.splines import (
    draw_inputs,
    draw_params,
    each_direction,
    each_spline,
    each_tails,
    evaluate,
    extreme_params,
    special_points,
    tile,
    values_and_gradients,
)

pytestmark = pytest.mark.usefixtures("x64")


def neighbours(dtype, bound):
    """The bounds and the floating-point numbers next to them."""
    bound = dtype(bound)
    ends = [np.nextafter(bound, dtype(0)), bound, np.nextafter(bound, dtype(np.inf))]
    return np.array(ends + [-e for e in ends], dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_spline
@each_direction
def test_always_finite(spline, direction, dtype):
    for params in extreme_params(spline, dtype):
        points = special_points(spline, params.astype(np.float64)).astype(dtype)
        x = np.concatenate([points, neighbours(dtype, spline.bound), draw_inputs(spline, 50)])
        results = values_and_gradients(spline, direction, x.astype(dtype), tile(params, len(x)))
        for result in jax.tree.leaves(results):
            assert result.dtype == dtype
            assert np.all(np.isfinite(result)), params


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e3])
@each_spline
@each_direction
def test_float32_is_as_good_as_its_rounding(spline, direction, scale):
    """The float32 result lies between the exact results at inputs a few roundings away.

    This is the most one can ask where the slope is 1e6 or 1e-6, and the map being increasing,
    it needs no condition number.
    """
    bound = spline.bound
    x = np.linspace(-0.9999 * bound, 0.9999 * bound, 500).astype(np.float32)
    params = draw_params(spline, x.shape, scale, dtype=np.float32)
    y, _ = evaluate(spline, direction, x, params)
    slack = 40 * np.finfo(np.float32).eps * bound
    inside = lambda x: np.clip(x.astype(np.float64), -bound, bound)
    low, high = (
        evaluate(spline, direction, inside(x + shift), params.astype(np.float64))[0]
        for shift in (-slack, slack)
    )
    assert np.all(low - slack <= y) and np.all(y <= high + slack)


@each_tails
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_float32_round_trip_through_sixteen_layers(spline, scale):
    """The error is a few roundings, each magnified by what the layers after it contract.

    Where that is more than the digits that float32 has, as for two thirds of the inputs at
    ``scale = 1``, the input is lost to any algorithm.
    """
    x = draw_inputs(spline, 512).astype(np.float32)
    layers = [draw_params(spline, x.shape, scale, seed, np.float32) for seed in range(16)]
    y, log_slope, magnified = x, 0.0, 1.0
    for params in layers:
        y, increment = evaluate(spline, "forward", y, params)
        log_slope = log_slope + increment
        magnified = magnified + np.exp(-log_slope)
    for params in reversed(layers):
        y, _ = evaluate(spline, "inverse", y, params)
    roundings = np.finfo(np.float32).eps * spline.bound * magnified
    resolved = roundings < 1e-2
    assert np.mean(resolved) > (0.99 if scale < 1 else 0.3)
    assert np.all(np.abs(y - x)[resolved] <= 2 * roundings[resolved])
    if scale < 1:
        assert np.max(np.abs(y - x)) < 1e-5


@each_tails
@each_direction
def test_second_derivatives_are_finite_at_special_points(spline, direction):
    apply = getattr(spline, direction)

    @jax.jit
    def derivatives_of_gradients(x, params):
        def gradients(x, params):
            _, pullback = jax.vjp(apply, x, params)
            one, zero = jnp.ones_like(x), jnp.zeros_like(x)
            return pullback((one, zero)), pullback((zero, one))

        return jax.jvp(gradients, (x, params), (jnp.ones_like(x), jnp.ones_like(params)))[1]

    for params in extreme_params(spline, np.float64):
        x = special_points(spline, params)
        results = derivatives_of_gradients(x, tile(params, len(x)))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(results))
