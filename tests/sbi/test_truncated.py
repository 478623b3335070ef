"""Posterior estimation in rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import flowdists as fd

QUICK = {"max_epochs": 2, "progress": False}


def model():
    loc = numpyro.sample("loc", dist.Uniform(-20.0, 20.0))
    numpyro.sample("x", dist.Normal(loc, 0.5))


@pytest.mark.heavy
def test_rounds_close_in_on_the_posterior(key):
    posterior, histories, acceptance = fd.amortize_truncated(
        key,
        model,
        {"x": 3.0},
        observed="x",
        num_rounds=3,
        num_simulations=2000,
        flow_options={"num_layers": 2, "hidden_sizes": (32, 32)},
        fit_options={"max_epochs": 40, "batch_size": 50, "progress": False},
    )
    draws = posterior.sample(key, {"x": 3.0}, (10_000,))["loc"]
    exact = stats.norm(3.0, 0.5).ppf([0.05, 0.16, 0.5, 0.84, 0.95])
    np.testing.assert_allclose(np.quantile(draws, [0.05, 0.16, 0.5, 0.84, 0.95]), exact, atol=0.1)
    assert len(histories) == 3
    # The last region keeps the posterior, and with it what a flow's tails reach.
    assert 1.0 == acceptance[0] > acceptance[1] > acceptance[2] > 0.05


MISUSE = {
    "outside": ({"outside": 0.7}, ValueError, "outside"),
    "rounds": ({"num_rounds": 0}, ValueError, "num_rounds"),
    "batch of data": ({"data": {"x": jnp.ones(3)}}, ValueError, "one observation"),
    "other data": ({"data": {"y": 1.0}}, ValueError, "missing"),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse(case):
    options, kind, message = MISUSE[case]
    given = {"data": {"x": 1.0}, "observed": "x", "fit_options": QUICK, **options}
    with pytest.raises(kind, match=message):
        fd.amortize_truncated(jax.random.key(0), model, given.pop("data"), **given)
