"""Networks of sets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowdists import DeepSets
from tests.draws import drawn
from tests.tolerances import AGREE_F32

each_pooling = pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
X = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)


def build(in_size=2, **options):
    return drawn(lambda key: DeepSets(key, in_size, 3, hidden_sizes=(6, 6), **options), 0.4)


@jax.jit
def run(network, x):
    return network(x)


@each_pooling
def test_the_order_of_elements_does_not_matter(pooling):
    network = build(pooling=pooling)
    orders = np.array(list(itertools.permutations(range(4))))
    changed = X[:4].copy()
    changed[0, 0] += 1.0
    *outputs, other = run(network, np.concatenate([X[orders], changed[None]]))
    np.testing.assert_allclose(outputs, np.broadcast_to(outputs[0], (24, 3)), rtol=1e-5)
    assert not np.allclose(outputs[0], other)


@each_pooling
def test_a_masked_set_is_the_set_of_what_is_there(pooling):
    mask = np.array([1.0, 1.0, 1.0, 0.0, 0.0], np.float32)[:, None]
    filled = np.where(mask > 0, X, np.nan).astype(np.float32)

    @jax.jit
    def compare(masked, plain, filled, mask):
        total = lambda x: masked(jnp.concatenate([x, mask], -1)).sum()
        nothing = masked(jnp.concatenate([filled, jnp.zeros((5, 1))], -1))
        given = masked(jnp.concatenate([filled, mask], -1))
        return given, plain(filled[:3]), jax.grad(total)(filled), nothing

    networks = build(pooling=pooling, masked=True), build(pooling=pooling)
    given, expected, gradient, nothing = map(np.asarray, compare(*networks, filled, mask))
    np.testing.assert_allclose(given, expected, rtol=AGREE_F32)
    assert np.isfinite(gradient).all() and (gradient[3:] == 0).all() and (gradient[:3] != 0).any()
    assert np.isfinite(nothing).all()


@each_pooling
def test_a_mask_of_nan_is_not_hidden(pooling):
    sets = np.ones((2, 4, 3), np.float32)
    sets[1, 1, 2] = np.nan
    finite, nan = np.asarray(run(build(pooling=pooling, masked=True), sets))
    assert np.isfinite(finite).all()
    assert np.isnan(nan).all()


def test_the_size_of_a_set_matters():
    both = jax.jit(lambda network: (network(jnp.ones((2, 1))), network(jnp.ones((6, 1)))))
    assert not np.allclose(*both(build(1)))


def test_batches():
    x = np.random.default_rng(0).normal(size=(4, 6, 5, 2)).astype(np.float32)
    whole, one = jax.jit(lambda network, x: (network(x), network(x[2, 3])))(build(), x)
    np.testing.assert_allclose(np.asarray(whole)[2, 3], one, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"in_size": 0}, "in_size"),
        ({"out_size": -1}, "out_size"),
        ({"hidden_sizes": ()}, "hidden_sizes"),
        ({"pooling": "median"}, "pooling"),
        ({"activation": "no"}, "activation"),
    ],
)
def test_errors(options, name, key):
    with pytest.raises(ValueError, match=f"`{name}`"):
        DeepSets(key, **{"in_size": 2, "out_size": 3, **options})
