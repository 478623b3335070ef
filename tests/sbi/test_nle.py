"""Likelihoods learned from simulations."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS

import flowdists as fd
from tests.sbi.models import LEARNING, TINY, exact, gaussian


def test_a_learned_likelihood_in_a_model(key):
    likelihood, _ = fd.nle(key, gaussian, observed="x", **LEARNING["affine"])
    x = np.array([90.0, 110.0, 95.0, 80.0])

    def model():
        loc = numpyro.sample("loc", dist.Normal(100.0, 20.0))
        numpyro.sample("x", likelihood.condition({"loc": loc}), obs=x)

    mcmc = MCMC(NUTS(model), num_warmup=300, num_samples=1000, progress_bar=False)
    mcmc.run(key)
    mean, deviation = exact(x)
    draws = np.asarray(mcmc.get_samples()["loc"])
    assert abs(draws.mean() - mean) < 0.4 * deviation
    assert abs(draws.std() / deviation - 1) < 0.3


def test_a_simulator_that_gives_nan_is_an_error(key):
    def broken():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Delta(jnp.log(z)))

    with pytest.raises(ValueError, match=r"nle: .* in 'x' in \d+ of 50 .*bias"):
        fd.nle(key, broken, observed="x", num_simulations=50, **TINY)


def test_a_likelihood_has_the_datas_support(given, key):
    def positive():
        rate = numpyro.sample("rate", dist.Uniform(0.5, 2.0))
        numpyro.sample("x", dist.Exponential(rate).expand([2]).to_event(1))

    likelihood, _ = fd.nle(key, positive, observed="x", num_simulations=200, **TINY)
    conditioned = likelihood.condition({"rate": 1.0})
    draws = np.asarray(jax.jit(conditioned.sample, static_argnums=1)(key, (1000,)))
    assert (draws > 0).all() and conditioned.support(np.ones(2))


def test_a_likelihood_of_discrete_data_is_an_error(key):
    def counts():
        rate = numpyro.sample("rate", dist.Uniform(0.5, 2.0))
        numpyro.sample("x", dist.Poisson(rate).expand([2]).to_event(1))

    with pytest.raises(ValueError, match=r"continuous.*'x'.*dequantize"):
        fd.nle(key, counts, observed="x", num_simulations=50, **TINY)
