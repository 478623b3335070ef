"""ShiftScale transformers against their equations and automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowdists.transformers import Additive, ShiftScale, Transformer
from tests.transformers.evaluation import evaluate, values_and_gradients

pytestmark = pytest.mark.usefixtures("x64")

FAMILIES = [
    ShiftScale(),
    ShiftScale(max_log_scale=0.5),
    ShiftScale("exp"),
    ShiftScale("sigmoid"),
    Additive(),
]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=repr)
each_direction = pytest.mark.parametrize("direction", ["forward", "inverse"])


def draw(family, shape=(5, 3), scale=1.0):
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape), scale * rng.standard_normal((family.num_params, *shape))


@pytest.mark.parametrize(
    "family, factor",
    [
        (ShiftScale(), lambda r: np.exp(2 * np.tanh(r / 2))),
        (ShiftScale(max_log_scale=0.5), lambda r: np.exp(0.5 * np.tanh(r / 0.5))),
        (ShiftScale("exp"), np.exp),
        (ShiftScale("sigmoid"), lambda r: (1 + np.exp(-2)) / (1 + np.exp(-r - 2))),
    ],
)
def test_equation(family, factor):
    x, params = draw(family)
    y, log_slope = evaluate(family, "forward", x, params)
    np.testing.assert_allclose(y, x * factor(params[1]) + params[0], rtol=1e-12)
    np.testing.assert_allclose(log_slope, np.log(factor(params[1])), atol=1e-12)


def test_additive_equation():
    x, params = draw(Additive())
    y, log_slope = evaluate(Additive(), "forward", x, params)
    np.testing.assert_array_equal(y, x + params[0])
    np.testing.assert_array_equal(log_slope, np.zeros_like(x))


@each_family
@each_direction
def test_slope_is_the_derivative(family, direction):
    x, params = draw(family)
    (_, log_slope), (slope, _), _ = values_and_gradients(family, direction, x, params)
    np.testing.assert_allclose(np.log(slope), log_slope, atol=1e-12)
    ahead, behind = (evaluate(family, direction, x + step, params)[0] for step in (1e-6, -1e-6))
    np.testing.assert_allclose((ahead - behind) / 2e-6, np.exp(log_slope), rtol=1e-8)


@each_family
def test_round_trip(family):
    x, params = draw(family, scale=3.0)
    y, log_slope = evaluate(family, "forward", x, params)
    x_again, log_slope_inverse = evaluate(family, "inverse", y, params)
    np.testing.assert_allclose(x_again, x, atol=1e-9)
    np.testing.assert_array_equal(log_slope_inverse, -log_slope)


@each_family
@each_direction
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_params_are_the_identity(family, direction, dtype):
    x = draw(family)[0].astype(dtype)
    y, log_slope = evaluate(family, direction, x, np.zeros((family.num_params, *x.shape), dtype))
    assert y.dtype == log_slope.dtype == dtype
    np.testing.assert_allclose(y, x, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(log_slope, 0, atol=4 * np.finfo(dtype).eps)


@each_family
def test_derivative_at_zero_params_does_not_vanish(family):
    """A layer that starts at the identity must be able to leave it."""
    x, params = draw(family)
    _, (_, by_params), _ = values_and_gradients(family, "forward", x, np.zeros_like(params))
    assert np.all(np.abs(by_params) > 0)


@each_direction
def test_tanh_is_bounded_and_finite(direction):
    family = ShiftScale(max_log_scale=1.5)
    x = np.array([-1e6, -1.0, 0.0, 1.0, 1e6], np.float32)
    for raw in (-1e3, -50.0, 50.0, 1e3):
        params = np.full((2, 5), raw, np.float32)
        values, *gradients = values_and_gradients(family, direction, x, params)
        assert np.all(np.abs(values[1]) <= 1.5)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((values, gradients)))


@each_family
@each_direction
def test_broadcast_params(family, direction):
    x, params = draw(family)
    for given, expected in zip(
        evaluate(family, direction, x, params[:, :1]),
        evaluate(family, direction, x, np.broadcast_to(params[:, :1], params.shape)),
        strict=True,
    ):
        assert given.shape == x.shape
        np.testing.assert_allclose(given, expected, atol=1e-14)


@each_family
def test_bfloat16_is_computed_in_float32(family):
    x, params = (jax.ShapeDtypeStruct(a.shape, jnp.bfloat16) for a in draw(family))
    results = jax.eval_shape(family.forward, x, params)
    assert all(result.dtype == jnp.float32 for result in results)


@each_family
def test_params_of_the_wrong_shape(family):
    with pytest.raises(ValueError, match=r"params must have shape \(num_params, \*x.shape\)"):
        family.inverse(np.zeros(4), np.zeros((family.num_params + 1, 4)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scale": "relu"}, "scale must be one of .*, got 'relu'"),
        ({"max_log_scale": 0.0}, "max_log_scale must be positive and finite, got 0.0"),
        ({"max_log_scale": float("inf")}, "max_log_scale must be positive and finite, got inf"),
    ],
)
def test_construction_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShiftScale(**arguments)


def test_static_and_hashable():
    assert ShiftScale("exp") == ShiftScale("exp") and hash(ShiftScale("exp")) == hash(
        ShiftScale("exp")
    )
    assert ShiftScale() != ShiftScale("exp") and Additive() == Additive()


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Transformer()
