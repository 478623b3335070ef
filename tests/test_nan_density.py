"""The density of NaN is NaN, whatever NumPyro's validation takes it for."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import flowdists as fd

POINTS = np.array([[0.3, 0.6], [np.nan, 0.6], [0.3, np.nan], [0.3, 7.0]], np.float32)
SUPPORTS = [None, dist.constraints.unit_interval]


def flow(support, **options):
    layer = fd.Affine(jnp.array([0.5, -1.0]), jnp.array([2.0, 0.7]))
    if support is not None:
        layer = fd.Chain([layer, fd.to_support(dist.constraints.independent(support, 1))])
    return fd.Flow(fd.StandardNormal((2,)), layer, **options)


@pytest.mark.filterwarnings("ignore:Out-of-support")
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("compiled", [False, True])
def test_of_vectors(support, compiled):
    given, expected = (
        np.asarray((jax.jit(f.log_prob) if compiled else f.log_prob)(POINTS))
        for f in (flow(support, validate_args=True), flow(support, validate_args=False))
    )
    np.testing.assert_array_equal(np.isnan(given), [False, True, True, False])
    np.testing.assert_array_equal(given, expected)
    assert given[3] == -np.inf or support is None


@pytest.mark.parametrize("support", SUPPORTS)
def test_gradients_are_those_without_validation(support):
    gradient = jax.jit(jax.grad(lambda flow, x: flow.log_prob(x).sum(), (0, 1)))
    gradients = [gradient(flow(support, validate_args=v), POINTS[:1]) for v in (True, False)]
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_of_numbers_and_of_batches():
    one = fd.Flow(dist.Normal(0.0, 1.0), fd.Affine(jnp.array(1.0), jnp.array(2.0)))
    scores = one.log_prob(np.array([0.5, np.nan]))
    np.testing.assert_array_equal(np.isnan(scores), [False, True])
    batch = fd.Flow(dist.Normal(jnp.zeros(3), 1.0), fd.Affine(jnp.array(1.0), jnp.array(2.0)))
    np.testing.assert_array_equal(batch.log_prob(np.array(np.nan)), np.full(3, np.nan))


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_with_intermediates():
    given = flow(None, validate_args=True)
    x, intermediates = given.sample_with_intermediates(jax.random.key(0), (4,))
    x = np.array(x)
    x[2, 1] = np.nan
    scores = given.log_prob(x, intermediates)
    np.testing.assert_array_equal(np.isnan(scores), [False, False, True, False])
