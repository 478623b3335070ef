"""What a Repeat keeps for its backward pass changes its memory, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowdists as fd
from flowdists.flows import glow_step
from tests.table import perturb
from tests.tolerances import INVERTED_GRADIENT_F32, LOG_DET_F64

KEY = jax.random.key(0)
MEMORIES = ("store", "checkpoint", "invert")


def stack(memory, num_layers, context_shape=None, hidden_channels=8, shape=(4, 4, 4)):
    make = lambda key: glow_step(
        key, shape, hidden_channels=hidden_channels, context_shape=context_shape
    )
    layer = jax.jit(lambda key: fd.Repeat(key, make, num_layers, memory=memory))(KEY)
    return perturb(KEY, layer, 0.03)


def loss(direction, layer, value, context):
    out, log_det = getattr(layer, f"{direction}_and_log_det")(value, context)
    return (out**2).sum() / 2 + log_det.sum()


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_values_and_gradients_are_equal(direction, x64):
    """In the parameters, the input and a context with fewer batch axes than the input."""
    value = jax.random.normal(KEY, (2, 3, 4, 4, 4))
    context = jax.random.normal(jax.random.key(1), (3, 2))
    function = jax.jit(jax.value_and_grad(lambda *args: loss(direction, *args), argnums=(0, 1, 2)))
    results = [function(stack(memory, 3, (2,)), value, context) for memory in MEMORIES]
    for other in results[1:]:
        pairs = zip(jax.tree.leaves(results[0]), jax.tree.leaves(other), strict=True)
        for expected, given in pairs:
            error = jnp.linalg.norm(given - expected)
            assert error <= LOG_DET_F64 * jnp.linalg.norm(expected)


@pytest.mark.parametrize("make", [lambda key: fd.ActNorm((3,)), lambda key: fd.LULinear(key, (3,))])
def test_parameters_of_less_precision_than_the_input(make):
    """A layer's log-determinant then has less than their sum."""
    x = jax.random.normal(KEY, (2, 3))
    gradients = []
    for memory in MEMORIES:
        layer = perturb(KEY, fd.Repeat(KEY, make, 2, memory=memory), 0.1)
        layer = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), layer)
        gradients.append(jax.grad(lambda layer: loss("inverse", layer, x, None))(layer))
    for other in gradients[1:]:
        pairs = zip(jax.tree.leaves(gradients[0]), jax.tree.leaves(other), strict=True)
        for expected, given in pairs:
            assert given.dtype == jnp.bfloat16
            np.testing.assert_allclose(given.astype(float), expected.astype(float), rtol=0.05)


@pytest.mark.parametrize("memory", MEMORIES)
def test_integers_are_not_turned_into_floats(memory):
    layer = fd.Repeat(KEY, lambda key: fd.ActNorm((3,)), 2, memory=memory)
    for method in (layer.data_init, layer.inverse):
        with pytest.raises(TypeError, match="floating-point dtype, got int32"):
            method(jnp.ones((5, 3), int))


@pytest.mark.heavy
def test_inverted_gradients_in_single_precision_at_32_layers():
    value = jax.random.normal(KEY, (4, 4, 4, 4))
    function = jax.jit(jax.grad(lambda layer, value: loss("inverse", layer, value, None)))
    expected, given = (function(stack(memory, 32), value) for memory in ("store", "invert"))
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(given), strict=True)
    for a, b in pairs:
        assert jnp.linalg.norm(a - b) <= INVERTED_GRADIENT_F32 * jnp.linalg.norm(a)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_the_backward_pass_evaluates_a_network_once(direction):
    """A gradient costs 4 evaluations of it, for the 3 of one that stores, and not 5."""

    def operations(memory):
        layer = stack(memory, 2, hidden_channels=64)
        x = jax.ShapeDtypeStruct((16, 4, 4, 4), jnp.float32)
        function = jax.grad(lambda layer, x: loss(direction, layer, x, None))
        return jax.jit(function).lower(layer, x).compile().cost_analysis()["flops"]

    assert operations("invert") <= 1.5 * operations("store")


@pytest.mark.heavy
def test_memory_does_not_grow_with_depth():
    def temporary_bytes(memory, num_layers):
        layer = stack(memory, num_layers, hidden_channels=32)
        x = jax.ShapeDtypeStruct((16, 4, 4, 4), jnp.float32)
        function = jax.value_and_grad(lambda layer, x: loss("inverse", layer, x, None))
        compiled = jax.jit(function).lower(layer, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes("invert", 32) <= 1.2 * temporary_bytes("invert", 4)
    assert temporary_bytes("store", 32) > 2 * temporary_bytes("store", 4)
