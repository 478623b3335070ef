"""The density of NaN is NaN, whatever NumPyro's validation takes it for."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import flowdists as fd
from tests import table

POINTS = jnp.array([[0.3, 0.6], [jnp.nan, 0.6], [0.3, jnp.nan], [0.3, 7.0]])
SMALL = {"num_layers": 2, "hidden_sizes": (8,)}


def flow(support, **options):
    made = fd.MAF(jax.random.key(0), (2,), support=support, **SMALL)
    moved = table.perturb(jax.random.key(1), made.bijector, 0.3)
    return fd.Flow(made.base, moved, **options)


@pytest.mark.filterwarnings("ignore:Out-of-support")
@pytest.mark.parametrize("support", [None, dist.constraints.unit_interval])
@pytest.mark.parametrize("compiled", [False, True])
def test_of_vectors(support, compiled):
    given = flow(support, validate_args=True)
    score = jax.jit(given.log_prob) if compiled else given.log_prob
    scores = score(POINTS)
    np.testing.assert_array_equal(jnp.isnan(scores), [False, True, True, False])
    plain = flow(support, validate_args=False)
    expected = (jax.jit(plain.log_prob) if compiled else plain.log_prob)(POINTS)
    np.testing.assert_array_equal(scores, expected)
    assert scores[3] == -jnp.inf or support is None

    finite = POINTS[:1]
    loss = lambda flow, x: flow.log_prob(x).sum()
    gradients = [jax.grad(loss, (0, 1))(f, finite) for f in (given, plain)]
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_of_numbers_and_of_batches():
    one = fd.Flow(dist.Normal(0.0, 1.0), fd.Affine(jnp.array(1.0), jnp.array(2.0)))
    scores = one.log_prob(jnp.array([0.5, jnp.nan]))
    np.testing.assert_array_equal(jnp.isnan(scores), [False, True])
    batch = fd.Flow(dist.Normal(jnp.zeros(3), 1.0), fd.Affine(jnp.array(1.0), jnp.array(2.0)))
    assert jnp.isnan(batch.log_prob(jnp.array(jnp.nan))).all()
    assert batch.log_prob(jnp.array(jnp.nan)).shape == (3,)


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_with_intermediates():
    given = flow(None, validate_args=True)
    x, intermediates = given.sample_with_intermediates(jax.random.key(0), (4,))
    scores = given.log_prob(x.at[2, 1].set(jnp.nan), intermediates)
    np.testing.assert_array_equal(jnp.isnan(scores), [False, False, True, False])
