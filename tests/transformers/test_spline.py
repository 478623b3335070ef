"""The rational-quadratic spline against mathematics: NumPy, finite differences, monotonicity."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowdists.transformers import RationalQuadratic
from tests.transformers.splines import (
    CIRCULAR,
    LINEAR,
    draw_inputs,
    draw_params,
    each_direction,
    each_spline,
    each_tails,
    evaluate,
    special_points,
    spline_bins,
    tile,
    values_and_gradients,
)

pytestmark = pytest.mark.usefixtures("x64")


def reference_forward(spline, x, params):
    """Equations 4 and 5 of Durkan et al. (2019) for a scalar."""
    bound = spline.bound
    if spline.tails == "linear" and abs(x) >= bound:
        return x, 0.0
    x = x if abs(x) <= bound else (x + bound) % (2 * bound) - bound
    xs, ys, slopes = spline_bins(spline, params)
    i = min(max(np.searchsorted(xs, x, side="right") - 1, 0), spline.num_bins - 1)
    width, height = xs[i + 1] - xs[i], ys[i + 1] - ys[i]
    s, xi = height / width, (x - xs[i]) / width
    denominator = s + (slopes[i + 1] + slopes[i] - 2 * s) * xi * (1 - xi)
    y = ys[i] + height * (s * xi**2 + slopes[i] * xi * (1 - xi)) / denominator
    numerator = slopes[i + 1] * xi**2 + 2 * s * xi * (1 - xi) + slopes[i] * (1 - xi) ** 2
    return y, np.log(s**2 * numerator / denominator**2)


@each_spline
def test_forward_is_the_paper(spline):
    x = draw_inputs(spline, 200)
    params = draw_params(spline, x.shape)
    y, log_slope = evaluate(spline, "forward", x, params)
    expected = np.array(
        [reference_forward(spline, *pair) for pair in zip(x, params.T, strict=True)]
    )
    np.testing.assert_allclose(y, expected[:, 0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log_slope, expected[:, 1], rtol=1e-11, atol=1e-12)


@each_spline
def test_special_points_are_the_paper(spline):
    params = draw_params(spline, ())
    x = special_points(spline, params)
    y, _ = evaluate(spline, "forward", x, tile(params, len(x)))
    expected = np.array([reference_forward(spline, value, params)[0] for value in x])
    # Where an angle is wrapped, the rounding of the wrapping differs.
    atol = 1e-12 if spline.tails == "linear" else 1e-8
    distance = np.abs(y - expected)
    if spline.tails == "circular":
        distance = np.minimum(distance, np.abs(2 * spline.bound - distance))
    assert distance.max() < atol


@each_spline
def test_knots_map_to_knots(spline):
    params = draw_params(spline, ())
    xs, ys, slopes = spline_bins(spline, params)
    y, log_slope = evaluate(spline, "forward", xs, tile(params, len(xs)))
    x, log_slope_inverse = evaluate(spline, "inverse", ys, tile(params, len(xs)))
    np.testing.assert_allclose(y, ys, atol=1e-12)
    np.testing.assert_allclose(x, xs, atol=1e-12)
    np.testing.assert_allclose(log_slope, np.log(slopes), atol=1e-10)
    np.testing.assert_allclose(log_slope_inverse, -np.log(slopes), atol=1e-10)


@each_spline
def test_round_trip(spline):
    params = draw_params(spline, ())
    x = np.concatenate([draw_inputs(spline, 200), spline_bins(spline, params)[0]])
    if spline.tails == "linear":
        x = np.concatenate([x, special_points(spline, params)])
    tiled = tile(params, len(x))
    y, log_slope = evaluate(spline, "forward", x, tiled)
    x_again, log_slope_inverse = evaluate(spline, "inverse", y, tiled)
    np.testing.assert_allclose(x_again, x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(log_slope_inverse, -log_slope, atol=1e-9)


@each_spline
@each_direction
def test_slope_is_the_derivative(spline, direction):
    x = draw_inputs(spline, 200)
    params = draw_params(spline, x.shape)
    (_, log_slope), (slope, _), _ = values_and_gradients(spline, direction, x, params)
    np.testing.assert_allclose(np.log(slope), log_slope, atol=1e-11)
    ahead, behind = (evaluate(spline, direction, x + step, params)[0] for step in (1e-6, -1e-6))
    np.testing.assert_allclose((ahead - behind) / 2e-6, np.exp(log_slope), rtol=2e-5)


@each_spline
@each_direction
def test_increasing(spline, direction):
    x = np.linspace(-spline.bound, spline.bound, 4096)
    params = draw_params(spline, (), scale=3.0)
    parts = [evaluate(spline, direction, part, tile(params, 512)) for part in np.split(x, 8)]
    y = np.concatenate([part for part, _ in parts])
    assert np.all(np.diff(y) > 0)
    np.testing.assert_allclose(y[np.array([0, -1])], x[[0, -1]], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_spline
@each_direction
def test_zero_params_are_the_identity(spline, direction, dtype):
    x = draw_inputs(spline, 200).astype(dtype)
    params = np.zeros((spline.num_params, *x.shape), dtype)
    y, log_slope = evaluate(spline, direction, x, params)
    assert y.dtype == log_slope.dtype == dtype
    tolerance = 8 * np.finfo(dtype).eps * spline.bound
    np.testing.assert_allclose(y, x, rtol=0, atol=tolerance)
    # A bin's end slopes and width are rounded, and widths are a fraction of the bound.
    np.testing.assert_allclose(log_slope, 0, atol=8 * np.finfo(dtype).eps)


@each_direction
def test_linear_tails(direction):
    x = np.array([-1e6, -7.0, -3.0, 3.0, 3.0000001, 1e6])
    y, log_slope = evaluate(LINEAR, direction, x, draw_params(LINEAR, x.shape))
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(log_slope, 0)


@each_direction
def test_linear_tails_join_with_equal_slope(direction):
    bound, eps = LINEAR.bound, 1e-9
    x = np.array([-bound + eps, bound - eps])
    params = draw_params(LINEAR, x.shape)
    y, log_slope = evaluate(LINEAR, direction, x, params)
    np.testing.assert_allclose(y, x, atol=1e-12)
    np.testing.assert_allclose(log_slope, 0, atol=1e-7)


@each_direction
def test_circular_is_periodic_with_a_common_slope(direction):
    bound = CIRCULAR.bound
    x = draw_inputs(CIRCULAR, 50)
    params = draw_params(CIRCULAR, x.shape)
    for turns in (-3, 1, 1000):
        shifted = evaluate(CIRCULAR, direction, x + turns * 2 * bound, params)
        expected_results = evaluate(CIRCULAR, direction, x, params)
        for given, expected in zip(shifted, expected_results, strict=True):
            np.testing.assert_allclose(given, expected, atol=1e-9)
    params = draw_params(CIRCULAR, ())
    ends = np.array([-bound, -bound + 1e-9, bound - 1e-9, bound])
    _, log_slope = evaluate(CIRCULAR, direction, ends, tile(params, 4))
    slope = spline_bins(CIRCULAR, params)[2][0]
    sign = 1 if direction == "forward" else -1
    np.testing.assert_allclose(log_slope, sign * np.log(slope), atol=1e-6)


@each_direction
@pytest.mark.parametrize("tails", ["linear", "circular"])
def test_first_and_second_derivatives_are_finite_differences(tails, direction):
    spline = RationalQuadratic(num_bins=3, tails=tails)

    def function(v):
        """Both results, as functions of one vector ``(x, *params)``."""
        return jnp.stack(getattr(spline, direction)(v[0], v[1:]))

    @jax.jit
    def run(points, around):
        gradient = jax.jacrev(function)
        at_points = (jax.vmap(gradient)(points), jax.vmap(jax.jacfwd(gradient))(points))
        return at_points, (jax.vmap(function)(around), jax.vmap(gradient)(around))

    cases = itertools.product([-2.6, 0.3, 1.9], [0, 1])
    points = np.stack([np.append(x, draw_params(spline, (), seed=seed)) for x, seed in cases])
    size = points.shape[1]
    steps = 1e-6 * np.concatenate([np.eye(size), -np.eye(size)])
    around = (points[:, None] + steps).reshape(-1, size)
    (gradient, hessian), by_steps = jax.tree.map(np.asarray, run(points, around))
    for exact, values, tolerances in (
        (gradient, by_steps[0], {"rtol": 1e-5, "atol": 1e-7}),
        (hessian, by_steps[1], {"rtol": 1e-4, "atol": 1e-6}),
    ):
        values = values.reshape(len(points), 2, size, *values.shape[1:])
        difference = np.moveaxis((values[:, 0] - values[:, 1]) / 2e-6, 1, -1)
        np.testing.assert_allclose(exact, difference, **tolerances)
    np.testing.assert_allclose(hessian, hessian.swapaxes(-1, -2), atol=1e-9)


@each_tails
@each_direction
def test_batched_is_vmapped_is_broadcast(spline, direction):
    apply = getattr(spline, direction)
    x = draw_inputs(spline, 12).reshape(3, 4)
    params = draw_params(spline, (1, 4))

    @jax.jit
    def run(x, params):
        full = jnp.broadcast_to(params, (spline.num_params, 3, 4))
        vmapped = jax.vmap(apply, in_axes=(0, None))(x, params[:, 0])
        gradient = jax.grad(lambda p: sum(r.sum() for r in apply(x, p)))
        return (apply(x, full), apply(x, params), vmapped), (gradient(params), gradient(full))

    (expected, *others), (gradient, full_gradient) = jax.tree.map(np.asarray, run(x, params))
    for other in others:
        for a, b in zip(other, expected, strict=True):
            assert a.shape == x.shape
            np.testing.assert_allclose(a, b, atol=1e-13)
    np.testing.assert_allclose(gradient, full_gradient.sum(1, keepdims=True), atol=1e-11)


def test_bfloat16_is_computed_in_float32():
    x, params = (jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((2,), (LINEAR.num_params, 2)))
    for result in jax.eval_shape(LINEAR.forward, x, params):
        assert result.dtype == jnp.float32


def test_static_and_hashable():
    assert RationalQuadratic() == LINEAR and hash(RationalQuadratic()) == hash(LINEAR)
    assert RationalQuadratic(num_bins=4) != LINEAR
    assert LINEAR.num_params == 23 and CIRCULAR.num_params == 24
    assert CIRCULAR.domain(2.9) and not CIRCULAR.domain(3.1) and LINEAR.domain(3.1)
    assert CIRCULAR.codomain == CIRCULAR.domain


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_bins", 1),
        ("bound", 0.0),
        ("bound", float("inf")),
        ("bound", float("nan")),
        ("tails", "cubic"),
        ("min_width", -1e-3),
        ("min_width", 0.125),
        ("min_height", 0.0),
        ("min_height", 0.2),
        ("min_slope", 0.0),
        ("min_slope", 1.0),
    ],
)
def test_construction_errors_name_argument_and_value(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value!r}"):
        RationalQuadratic(**{name: value})


@pytest.mark.parametrize("shape", [(23,), (22, 4), (4, 23), (23, 3), (23, 4, 1)])
def test_params_of_the_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"\(num_params, \*x.shape\) = \(23, 4\), got"):
        LINEAR.forward(np.zeros(4), np.zeros(shape))
