"""The code on the page about extensions, run, and its layers compared with mathematics."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowdists as fd
from tests.table import perturb
from tests.test_docs import blocks
from tests.tolerances import LOG_DET_F64, ROUND_TRIP_F64

PAGE = Path("docs/extend.md")
CODE = blocks(PAGE)
DEFINED = {}


@pytest.fixture(scope="module", autouse=True)
def page():
    for code in CODE:
        exec(code, DEFINED)


def layers():
    key = jax.random.key(0)
    transformer = DEFINED["SinhArcsinh"]()
    asinh, rotation = DEFINED["Asinh"], DEFINED["RotationCoupling"]
    return {
        "Asinh": asinh(jnp.zeros(3)),
        "RotationCoupling": rotation(key, (4,), hidden_sizes=(4,)),
        "HalfPrecision": DEFINED["HalfPrecision"](asinh(jnp.zeros(3))),
        "Elementwise": fd.Elementwise((3,), transformer=transformer),
        "Coupling": fd.Coupling(key, (3,), transformer=transformer, hidden_sizes=(4,)),
        "MaskedAutoregressive": fd.MaskedAutoregressive(
            key, (3,), transformer=transformer, hidden_sizes=(4,)
        ),
        "ConvCoupling": fd.ConvCoupling(key, (2, 2, 2), transformer=transformer, hidden_channels=3),
    }


@jax.jit
def evaluate(layer, x):
    y, log_det = layer.forward_and_log_det(x)
    back, inverse_log_det = layer.inverse_and_log_det(y)
    jacobian = jax.jacfwd(layer.forward)(x).reshape(x.size, x.size)
    return log_det, inverse_log_det, back, jnp.linalg.slogdet(jacobian)[1]


@pytest.mark.parametrize(
    "name", ["Asinh", "RotationCoupling", "Elementwise", "Coupling", "MaskedAutoregressive",
             "ConvCoupling"]
)  # fmt: skip
def test_log_dets_and_inverses(name, x64):
    layer = perturb(jax.random.key(1), layers()[name], 0.3)
    x = np.random.default_rng(0).normal(size=layer.event_shape)
    log_det, inverse_log_det, back, expected = evaluate(layer, x)
    np.testing.assert_allclose(log_det, expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)
    np.testing.assert_allclose(inverse_log_det, -expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)
    np.testing.assert_allclose(back, x, rtol=ROUND_TRIP_F64, atol=ROUND_TRIP_F64)


def test_the_wrapper_changes_one_direction():
    wrapper = layers()["HalfPrecision"]
    x = jnp.array([1.001, 2.0, 3.0])
    assert wrapper(x)[0] == wrapper.bijector(jnp.array([1.0, 2.0, 3.0]))[0]
    np.testing.assert_array_equal(wrapper.inverse(x), wrapper.bijector.inverse(x))


@pytest.mark.parametrize(("name", "limit"), [("Asinh", 20), ("SinhArcsinh", 25)])
def test_extensions_are_short(name, limit):
    (code,) = (block for block in CODE if f"class {name}(" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= limit
