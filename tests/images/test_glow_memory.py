"""The gradient of Glow's density: of equal value whatever is stored, and of what it is made."""

import functools

import jax
import numpy as np
import pytest

import flowdists as fd
from tests.draws import drawn, uniform
from tests.tolerances import (
    INVERTED_GLOW_GRADIENT_F32,
    INVERTED_GRADIENT_F32,
    LOG_DET_F64,
)

SHAPE = (8, 8, 1)


def gradient(memory, steps, **options):
    options = {"num_scales": 2, "steps_per_scale": steps, "hidden_channels": 8, **options}
    flow = drawn(functools.partial(fd.Glow, event_shape=SHAPE, memory=memory, **options), 0.1)

    def loss(flow, x):
        given = flow.condition(np.arange(3)) if "num_classes" in options else flow
        return -given.log_prob(x).mean()

    return jax.grad(loss, (0, 1)), (flow, uniform(1, (3, *SHAPE), -0.5, 0.5))


def largest_error(steps, **options):
    """Of all leaves, relative to the norm of each."""
    results = []
    for memory in ("store", "invert"):
        function, arguments = gradient(memory, steps, **options)
        results.append(map(np.asarray, jax.tree.leaves(jax.jit(function)(*arguments))))
    norm = np.linalg.norm
    return max(norm((a - b).ravel()) / norm(a.ravel()) for a, b in zip(*results, strict=True))


@pytest.mark.heavy
def test_inverted_gradients_are_those_stored():
    """In single precision, through two scales of 32 steps, with classes."""
    assert largest_error(32, num_classes=3) < INVERTED_GLOW_GRADIENT_F32


@pytest.mark.heavy
def test_inverted_gradients_of_splines():
    """Which carry no rounding errors along for what they change."""
    assert largest_error(8, coupling="spline", num_scales=1) < INVERTED_GLOW_GRADIENT_F32


def test_inverted_gradients_in_double_precision(x64):
    assert largest_error(32, num_classes=3) < 10 * LOG_DET_F64


@pytest.mark.slow
@pytest.mark.heavy
def test_inverted_gradients_of_deep_stacks_of_splines():
    assert largest_error(32, coupling="spline") < INVERTED_GLOW_GRADIENT_F32


@pytest.mark.slow
@pytest.mark.heavy
def test_inverted_gradients_of_networks_in_half_precision():
    """A float that comes out as its neighbour may, now and then, be another one in 8 bits."""
    assert largest_error(32, dtype="bfloat16") < INVERTED_GRADIENT_F32


def test_a_gradient_has_no_convolution_and_does_not_grow_with_depth():
    programs = []
    for steps in (4, 32):
        function, arguments = gradient("store", steps, num_scales=1)
        programs.append(str(jax.make_jaxpr(function)(*arguments)))
    assert "conv_general_dilated" not in programs[0]
    assert programs[0].count(" = ") == programs[1].count(" = ") > 100
