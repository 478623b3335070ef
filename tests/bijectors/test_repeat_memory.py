"""What a Repeat keeps for its backward pass changes its memory, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowdists as fd
from flowdists import glow_step
from tests.draws import drawn, normal
from tests.tolerances import INVERTED_GRADIENT_F32, LOG_DET_F64

MEMORIES = ("store", "checkpoint", "invert")


def stack(memory, num_layers, shape=(4, 4, 4), context_shape=None, hidden_channels=4):
    make = functools.partial(
        glow_step, event_shape=shape, hidden_channels=hidden_channels, context_shape=context_shape
    )
    return drawn(lambda key: fd.Repeat(key, make, num_layers, memory=memory), 0.1)


def loss(direction, layer, value, context=None):
    out, log_det = getattr(layer, f"{direction}_and_log_det")(value, context)
    return (out**2).sum() / 2 + log_det.sum()


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_values_and_gradients_are_equal(direction, x64):
    """In the parameters, the input and a context with fewer batch axes than the input."""
    value, context = normal(0, (2, 3, 2, 2, 2)), normal(1, (3, 2))
    function = jax.jit(jax.value_and_grad(functools.partial(loss, direction), argnums=(0, 1, 2)))
    stacks = [stack(memory, 3, (2, 2, 2), (2,)) for memory in MEMORIES]
    results = [jax.tree.leaves(function(layer, value, context)) for layer in stacks]
    for other in results[1:]:
        for expected, given in zip(results[0], other, strict=True):
            expected, given = np.ravel(expected), np.ravel(given)
            assert np.linalg.norm(given - expected) <= LOG_DET_F64 * np.linalg.norm(expected)


@pytest.mark.parametrize("make", [lambda key: fd.ActNorm((3,)), lambda key: fd.LULinear(key, (3,))])
def test_parameters_of_less_precision_than_the_input(make):
    """A layer's log-determinant then has less than their sum."""
    stacks = [
        drawn(lambda key, memory=memory: fd.Repeat(key, make, 2, memory=memory), 0.1)
        for memory in MEMORIES
    ]
    stacks = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16), stacks)
    gradient = jax.grad(functools.partial(loss, "inverse"))
    both = jax.jit(lambda stacks, x: [gradient(layer, x) for layer in stacks])
    gradients = [jax.tree.leaves(each) for each in both(stacks, normal(0, (2, 3)))]
    for other in gradients[1:]:
        for expected, given in zip(gradients[0], other, strict=True):
            assert given.dtype == jnp.bfloat16
            expected, given = np.asarray(expected, float), np.asarray(given, float)
            np.testing.assert_allclose(given, expected, rtol=0.05)


@pytest.mark.parametrize("memory", MEMORIES)
def test_integers_are_not_turned_into_floats(memory):
    layer = drawn(lambda key: fd.Repeat(key, lambda key: fd.ActNorm((3,)), 2, memory=memory))
    for method in (layer.data_init, layer.inverse):
        with pytest.raises(TypeError, match="floating-point dtype, got int32"):
            method(np.ones((5, 3), np.int32))


@pytest.mark.slow
@pytest.mark.heavy
def test_inverted_gradients_in_single_precision_at_32_layers():
    function = jax.jit(jax.grad(functools.partial(loss, "inverse")))
    results = [
        jax.tree.leaves(function(stack(memory, 32), normal(0, (4, 4, 4, 4))))
        for memory in ("store", "invert")
    ]
    for a, b in zip(*results, strict=True):
        assert np.linalg.norm(np.ravel(a - b)) <= INVERTED_GRADIENT_F32 * np.linalg.norm(a.ravel())


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_the_backward_pass_evaluates_a_network_once(direction):
    """A gradient costs 4 evaluations of it, for the 3 of one that stores, and not 5."""

    def operations(memory):
        layer = stack(memory, 2, hidden_channels=64)
        x = jax.ShapeDtypeStruct((16, 4, 4, 4), jnp.float32)
        function = jax.jit(jax.grad(functools.partial(loss, direction)))
        return function.lower(layer, x).compile().cost_analysis()["flops"]

    assert operations("invert") <= 1.5 * operations("store")


SIZE = 16 * 4 * 4 * 4  # of a batch


def stored(memory, num_layers):
    """How many numbers besides the parameters a backward pass gets from its forward pass."""
    layer, x = stack(memory, num_layers), jax.ShapeDtypeStruct((16, 4, 4, 4), jnp.float32)
    pull_back = lambda layer, x: jax.vjp(functools.partial(loss, "inverse"), layer, x)[1]
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    return count(jax.eval_shape(pull_back, layer, x)) - count(layer)


def test_what_is_stored_does_not_grow_with_depth():
    grown = {memory: stored(memory, 32) - stored(memory, 4) for memory in MEMORIES}
    assert abs(grown["invert"]) < SIZE
    assert grown["checkpoint"] < 28 * 2 * SIZE < grown["store"]


@pytest.mark.slow
@pytest.mark.heavy
def test_memory_does_not_grow_with_depth():
    def temporary_bytes(memory, num_layers):
        layer = stack(memory, num_layers, hidden_channels=32)
        x = jax.ShapeDtypeStruct((16, 4, 4, 4), jnp.float32)
        function = jax.jit(jax.value_and_grad(functools.partial(loss, "inverse")))
        return function.lower(layer, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes("invert", 32) <= 1.2 * temporary_bytes("invert", 4)
    assert temporary_bytes("store", 32) > 2 * temporary_bytes("store", 4)
