"""The gradient of Glow's density: of equal value whatever is stored, and of what it is made."""

import functools

import jax
import jax.numpy as jnp
import pytest

import flowdists as fd
from tests.table import perturb
from tests.tolerances import (
    INVERTED_GLOW_GRADIENT_F32,
    INVERTED_GRADIENT_F32,
    LOG_DET_F64,
)

KEY = jax.random.key(0)
SHAPE = (8, 8, 1)


def gradient(memory, steps, **options):
    make = functools.partial(
        fd.Glow, event_shape=SHAPE, num_scales=2, steps_per_scale=steps, hidden_channels=8
    )
    flow = jax.jit(lambda key: make(key, memory=memory, **options))(KEY)
    flow = flow.replace(bijector=perturb(KEY, flow.bijector, 0.03))
    x = jax.random.uniform(jax.random.key(1), (3, *SHAPE), minval=-0.5, maxval=0.5)

    def loss(flow, x):
        given = flow.condition(jnp.arange(3)) if "num_classes" in options else flow
        return -given.log_prob(x).mean()

    return jax.grad(loss, (0, 1)), (flow, x)


def largest_error(options, steps):
    """Of all leaves, relative to the norm of each."""
    results = []
    for memory in ("store", "invert"):
        function, arguments = gradient(memory, steps, **options)
        results.append(jax.tree.leaves(jax.jit(function)(*arguments)))
    norm = jnp.linalg.norm
    pairs = zip(*results, strict=True)
    return max(float(norm((a - b).ravel()) / norm(a.ravel())) for a, b in pairs)


def test_inverted_gradients_are_those_stored(x64):
    """Through two scales of 32 steps, with classes."""
    assert largest_error({"num_classes": 3}, 32) < 10 * LOG_DET_F64


@pytest.mark.heavy
@pytest.mark.parametrize("coupling", ["affine", "spline"])
def test_inverted_gradients_in_single_precision(coupling):
    assert largest_error({"coupling": coupling}, 32) < INVERTED_GLOW_GRADIENT_F32


@pytest.mark.heavy
def test_inverted_gradients_of_networks_in_half_precision():
    """A float that comes out as its neighbour may, now and then, be another one in 8 bits."""
    assert largest_error({"dtype": "bfloat16"}, 32) < INVERTED_GRADIENT_F32


def test_a_gradient_has_no_convolution_and_does_not_grow_with_depth():
    programs = []
    for steps in (4, 32):
        function, arguments = gradient("store", steps)
        programs.append(str(jax.make_jaxpr(function)(*arguments)))
    assert "conv_general_dilated" not in programs[0]
    assert programs[0].count(" = ") == programs[1].count(" = ") > 100
