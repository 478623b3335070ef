"""Initialization from data by combinators: each layer sees what reaches it, on its own way."""

import jax
import numpy as np
import pytest

import flowdists as fd
from tests.draws import normal

X = 3.0 + 2.0 * np.asarray(normal(0, (200, 3)))


def assert_standard(value):
    np.testing.assert_allclose(np.mean(value, 0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.std(value, 0), 1.0, rtol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("turned", [False, True])
def test_data_is_standardized_on_the_way_that_it_goes(direction, turned):
    layer = fd.Inverse(fd.ActNorm((3,))) if turned else fd.ActNorm((3,))
    initialized, value = layer.data_init(X, direction=direction)
    assert_standard(value)
    assert_standard(getattr(initialized, direction)(X))
    assert type(initialized) is type(layer)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_layers_of_a_chain_are_initialized_one_after_the_other(direction):
    permute = fd.Permute((1, 2, 0))
    chain = fd.Chain([fd.ActNorm((3,)), permute, fd.ActNorm((3,))])
    initialized, value = chain.data_init(X, direction=direction)
    assert_standard(value)
    first, _, last = initialized.layers if direction == "forward" else initialized.layers[::-1]
    assert_standard(getattr(first, direction)(X))
    # Standardized already, so that nothing is left to do.
    for leaf in jax.tree.leaves(last):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-5)


def test_the_result_is_of_the_wider_precision_of_layers_and_data():
    layers = fd.Repeat(jax.random.key(0), lambda key: fd.ActNorm((3,)), 2)
    _, value = layers.data_init(X.astype(np.float16))
    assert value.dtype == np.float32
