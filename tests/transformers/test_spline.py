"""The rational-quadratic spline against mathematics: NumPy, finite differences, monotonicity."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowdists.transformers import RationalQuadratic
from tests.transformers import evaluation

LINEAR = RationalQuadratic()
CIRCULAR = RationalQuadratic(tails="circular")
SMALL = RationalQuadratic(num_bins=2, bound=1.5, min_width=0.1, min_height=0.05, min_slope=0.2)
LARGE = RationalQuadratic(num_bins=16, bound=10.0, tails="circular")
pytestmark = pytest.mark.usefixtures("x64")

SPLINES = [LINEAR, CIRCULAR, SMALL, LARGE]
DIRECTIONS = ["forward", "inverse"]

each_spline = pytest.mark.parametrize(
    "spline", SPLINES, ids=["linear", "circular", "small", "large"]
)
each_tails = pytest.mark.parametrize("spline", [LINEAR, CIRCULAR], ids=["linear", "circular"])
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def draw_params(spline, shape, scale=1.5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (scale * rng.standard_normal((spline.num_params, *shape))).astype(dtype)


def draw_inputs(spline, n, seed=1):
    """Inputs inside the bounds, and for linear tails as many outside of them."""
    reach = 2.0 if spline.tails == "linear" else 0.999
    return np.random.default_rng(seed).uniform(-reach * spline.bound, reach * spline.bound, n)


def spline_bins(spline, params):
    """Knots and slopes of one spline, from the definition, ``params`` of shape (P,)."""
    k, bound = spline.num_bins, spline.bound

    def knots(logits, minimum):
        weights = np.exp(logits - logits.max())
        sizes = minimum + (1 - k * minimum) * weights / weights.sum()
        return np.concatenate([[-bound], -bound + 2 * bound * np.cumsum(sizes)])

    raw = params[2 * k :]
    raw = np.append(raw, raw[0]) if spline.tails == "circular" else np.pad(raw, 1)
    slopes = spline.min_slope + (1 - spline.min_slope) * np.logaddexp(raw, 0) / np.log(2)
    return knots(params[:k], spline.min_width), knots(params[k : 2 * k], spline.min_height), slopes


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


def special_points(spline, params):
    """Zero, the bounds and their neighbours, far values, and the exact knots of both axes."""
    bound = spline.bound
    near = np.concatenate([bound * (1 + e * np.array([-1, 1])) for e in (1e-3, 1e-6, 1e-12)])
    points = np.concatenate([[0.0, bound, 1e3, 1e6], near])
    xs, ys, _ = spline_bins(spline, params)
    return np.concatenate([points, -points, xs, ys])


def neighbours(dtype, bound):
    """The bounds and the floating-point numbers next to them."""
    bound = dtype(bound)
    ends = [np.nextafter(bound, dtype(0)), bound, np.nextafter(bound, dtype(np.inf))]
    return np.array(ends + [-e for e in ends], dtype)


def tile(params, n):
    return np.repeat(params[:, None], n, axis=1)


def values_and_gradients(spline, direction, x, params):
    """As the function of this name, padded to one length: so there is one program for all."""
    size, padding = len(x), [(0, 512 - len(x))]
    padded = np.pad(x, padding, "edge"), np.pad(params, [(0, 0), *padding], "edge")
    results = evaluation.values_and_gradients(spline, direction, *padded)
    return jax.tree.map(lambda leaf: leaf[..., :size], results)


def evaluate(spline, direction, x, params):
    return values_and_gradients(spline, direction, x, params)[0]


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


def extreme_params(spline, dtype):
    """Random parameters, random signs times a size, and each block alone at a size."""
    rng = np.random.default_rng(3)
    k, p = spline.num_bins, spline.num_params
    columns = [rng.standard_normal(p), 5 * rng.standard_normal(p)]
    for size in (50.0, 1e3):
        columns += [size * rng.choice([-1, 1], p) for _ in range(4)]
        columns += [np.full(p, size), np.full(p, -size)]
        for block in (slice(0, k), slice(k, 2 * k), slice(2 * k, p)):
            column = np.zeros(p)
            column[block] = size * rng.choice([-1, 1], len(column[block]))
            columns.append(column)
    return np.stack(columns).astype(dtype)


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
