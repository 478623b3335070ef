"""Networks of sets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowdists import DeepSets
from tests.tolerances import AGREE_F32


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_the_order_of_elements_does_not_matter(pooling, key):
    network = DeepSets(key, 2, 3, hidden_sizes=(8, 8), pooling=pooling)
    x = jax.random.normal(key, (4, 2))
    outputs = jnp.stack([network(x[np.array(p)]) for p in itertools.permutations(range(4))])
    np.testing.assert_allclose(outputs, jnp.broadcast_to(outputs[0], outputs.shape), rtol=1e-5)
    assert not np.allclose(network(x), network(x.at[0, 0].add(1.0)))


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_a_masked_set_is_the_set_of_what_is_there(pooling, key):
    plain = DeepSets(key, 2, 3, hidden_sizes=(8, 8), pooling=pooling)
    masked = DeepSets(key, 2, 3, hidden_sizes=(8, 8), pooling=pooling, masked=True)
    x = jax.random.normal(key, (5, 2))
    filled = x.at[3:].set(jnp.nan)
    mask = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0])[:, None]
    given = jnp.concatenate([filled, mask], -1)
    np.testing.assert_allclose(masked(given), plain(x[:3]), rtol=AGREE_F32)
    gradient = jax.grad(lambda x: masked(jnp.concatenate([x, mask], -1)).sum())(filled)
    assert jnp.isfinite(gradient).all() and (gradient[3:] == 0).all() and (gradient[:3] != 0).any()
    nothing = jnp.concatenate([filled, jnp.zeros((5, 1))], -1)
    assert jnp.isfinite(masked(nothing)).all()


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_a_mask_of_nan_is_not_hidden(pooling, key):
    network = DeepSets(key, 2, 3, hidden_sizes=(8, 8), pooling=pooling, masked=True)
    assert jnp.isfinite(network(jnp.ones((4, 3)))).all()
    assert jnp.isnan(network(jnp.ones((4, 3)).at[1, 2].set(jnp.nan))).all()


def test_the_size_of_a_set_matters(key):
    network = DeepSets(key, 1, 3, hidden_sizes=(8,))
    assert not np.allclose(network(jnp.ones((2, 1))), network(jnp.ones((6, 1))))


def test_batches(key):
    network = DeepSets(key, 2, 3, hidden_sizes=(8,))
    x = jax.random.normal(key, (4, 6, 5, 2))
    np.testing.assert_allclose(network(x)[2, 3], network(x[2, 3]), rtol=1e-5)


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
