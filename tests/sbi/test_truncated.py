"""Posterior estimation in rounds."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

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
        num_simulations=500,
        flow_options={"num_layers": 2, "hidden_sizes": (32, 32)},
        fit_options={"max_epochs": 60, "batch_size": 50, "progress": False},
    )
    draws = posterior.sample(key, {"x": 3.0}, (10_000,))["loc"]
    assert abs(draws.mean() - 3.0) < 0.1 and abs(draws.std() / 0.5 - 1) < 0.2
    assert len(histories) == 3 and acceptance[0] == 1.0
    # The region of a posterior of standard deviation 0.5 is some 4 of the prior's 40 units.
    assert 0.05 < acceptance[-1] < 0.3


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
