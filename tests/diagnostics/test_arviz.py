"""Containers of ArviZ, against utilities of NumPyro and leave-one-out in closed form."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import autoguide, log_likelihood
from numpyro.infer.util import log_density
from scipy import stats

from flowdists.diagnostics import to_arviz
from tests.tolerances import P_VALUE, ROUND_TRIP_F32, STANDARD_ERRORS

Y = np.random.default_rng(0).normal(1.0, 1.0, 8)


def conjugate(y):
    z = numpyro.sample("z", dist.Normal(0, 1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(z, 1), obs=y)


def exact(y):
    numpyro.sample("z", dist.Normal(y.sum() / (1 + len(y)), (1 + len(y)) ** -0.5))


def nested(y):
    """Nested plates, deterministic sites, a factor, two likelihoods."""
    w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
    with numpyro.plate("column", 2, dim=-1):
        a = numpyro.sample("a", dist.HalfNormal(1))
        numpyro.deterministic("log_a", jnp.log(a))
        with numpyro.plate("row", len(y), dim=-2):
            numpyro.sample("y", dist.Normal(w.sum(), a), obs=y)
            numpyro.sample("counts", dist.Poisson(a), obs=jnp.ones(y.shape))
    numpyro.factor("penalty", -(w**2).sum())


def nested_guide(y):
    numpyro.sample("w", dist.Normal(0, numpyro.param("scale", 9.0)).expand([3]).to_event(1))
    with numpyro.plate("column", 2, dim=-1):
        numpyro.sample("a", dist.LogNormal(0.0, 0.3))


ROWS = np.random.default_rng(1).normal(size=(4, 2))


@pytest.fixture(scope="module")
def data():
    return to_arviz(jax.random.key(0), conjugate, exact, {}, Y)


def test_groups_shapes_and_names_of_axes():
    data = to_arviz(
        jax.random.key(0),
        nested,
        nested_guide,
        {"scale": 0.5},
        ROWS,
        num_samples=30,
        num_chains=3,
        batch_size=7,
        coords={"weight": ["left", "middle", "right"]},
        dims={"w": ["weight"]},
    )
    draws = ("chain", "draw")
    expected = {
        "posterior": {
            "w": (*draws, "weight"),
            "a": (*draws, "column"),
            "log_a": (*draws, "column"),
        },
        "sample_stats": {"lp": draws, "log_q": draws, "log_weight": draws},
        "log_likelihood": dict.fromkeys(("y", "counts"), (*draws, "row", "column")),
        "posterior_predictive": dict.fromkeys(("y", "counts"), (*draws, "row", "column")),
        "observed_data": dict.fromkeys(("y", "counts"), ("row", "column")),
    }
    for group, variables in expected.items():
        assert {n: v.dims for n, v in getattr(data, group).data_vars.items()} == variables
    assert data.posterior.sizes["chain"] == 3
    assert data.posterior.sizes["draw"] == 10
    np.testing.assert_array_equal(data.posterior["weight"], ["left", "middle", "right"])
    np.testing.assert_allclose(data.observed_data["y"], ROWS)

    flat = {n: v.values.reshape(30, *v.shape[2:]) for n, v in data.posterior.items()}
    np.testing.assert_allclose(flat["log_a"], np.log(flat["a"]), rtol=ROUND_TRIP_F32)

    @jax.jit
    def expected_densities(latents):
        joint = jax.vmap(lambda z: log_density(nested, (ROWS,), {}, z)[0])(latents)
        return log_likelihood(nested, latents, ROWS), joint

    reference, joint = expected_densities({name: flat[name] for name in ("w", "a")})
    for name in ("y", "counts"):
        given = data.log_likelihood[name].values.reshape(30, 4, 2)
        np.testing.assert_allclose(given, reference[name], rtol=ROUND_TRIP_F32)
    log_p = data.sample_stats["lp"].values.ravel()
    np.testing.assert_allclose(log_p, joint, rtol=ROUND_TRIP_F32)
    log_q = stats.norm(0, 0.5).logpdf(flat["w"]).sum(-1)
    log_q += stats.lognorm(0.3).logpdf(flat["a"]).sum(-1)
    np.testing.assert_allclose(data.sample_stats["log_q"].values.ravel(), log_q, rtol=1e-4)
    weight = data.sample_stats["log_weight"].values.ravel()
    np.testing.assert_allclose(weight, log_p - log_q, rtol=ROUND_TRIP_F32)


def test_posterior_predictive_of_data_without_a_plate(data):
    def model(y):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=y)

    bare = to_arviz(jax.random.key(0), model, exact, {}, Y)
    scale = np.sqrt(1 + 1 / 9)
    for container in (data, bare):
        new = container.posterior_predictive["y"].values.reshape(4000, 8)
        assert stats.kstest(new[:, 0], stats.norm(Y.sum() / 9, scale).cdf).pvalue > P_VALUE
        correlation = np.corrcoef(new[:, 0], new[:, 1])[0, 1]
        assert abs(correlation - 0.1) < STANDARD_ERRORS / np.sqrt(4000)


def test_likelihoods_that_cannot_be_sampled_have_no_predictive():
    class Density(dist.Normal):
        def sample(self, key, sample_shape=()):
            raise NotImplementedError

    def model(y):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", Density(z, jnp.ones(8)).to_event(1), obs=y)

    data = to_arviz(jax.random.key(0), model, exact, {}, Y, num_samples=40)
    assert not hasattr(data, "posterior_predictive")
    assert data.log_likelihood["y"].shape == (4, 10)


def test_summary_and_plots_work_at_once(data):
    import arviz as az

    summary = az.summary(data)
    assert list(summary.index) == ["z"]
    assert float(summary["r_hat"].iloc[0]) < 1.01
    assert float(summary["ess_bulk"].iloc[0]) > 3000
    az.plot_forest(data)
    az.plot_trace(data)


def test_leave_one_out_is_that_of_the_model(data):
    import arviz as az

    rest = Y.sum() - Y
    exact_loo = stats.norm(rest / 8, np.sqrt(1 + 1 / 8)).logpdf(Y)
    # An estimate is minus the logarithm of the mean inverse likelihood; smoothing makes its
    # error smaller, and errors of a sum are at most the sum of errors.
    inverse = np.exp(-data.log_likelihood["y"].values.reshape(4000, 8))
    errors = inverse.std(0) / inverse.mean(0) / np.sqrt(4000)
    result = az.loo(data, pointwise=True)
    total = result.elpd_loo if hasattr(result, "elpd_loo") else result.elpd
    assert abs(total - exact_loo.sum()) < STANDARD_ERRORS * errors.sum()
    pointwise = (result.loo_i if hasattr(result, "loo_i") else result.elpd_i).values
    np.testing.assert_array_less(abs(pointwise - exact_loo), STANDARD_ERRORS * errors)


def test_log_densities_correct_leave_one_out_for_the_guide():
    import arviz as az

    if not hasattr(az, "loo_approximate_posterior"):
        pytest.skip("ArviZ 0.x does not correct for approximate posteriors")

    def wide(y):
        numpyro.sample("z", dist.Normal(y.sum() / 9, 0.5))

    data = to_arviz(jax.random.key(0), conjugate, wide, {}, Y)
    corrected = az.loo_approximate_posterior(
        data, data.sample_stats["lp"], data.sample_stats["log_q"]
    )
    exact_loo = stats.norm((Y.sum() - Y) / 8, np.sqrt(1 + 1 / 8)).logpdf(Y).sum()
    weights = np.exp(data.sample_stats["log_weight"].values.reshape(4000, 1))
    inverse = weights * np.exp(-data.log_likelihood["y"].values.reshape(4000, 8))
    errors = inverse.std(0) / inverse.mean(0) + weights.std(0) / weights.mean(0)
    assert abs(corrected.elpd - exact_loo) < STANDARD_ERRORS * errors.sum() / np.sqrt(4000)
    assert abs(az.loo(data).elpd - exact_loo) > abs(corrected.elpd - exact_loo)


def test_automatic_guides_and_their_transformed_sites():
    def model(y):
        scale = numpyro.sample("scale", dist.HalfNormal(1))
        numpyro.deterministic("variance", scale**2)
        numpyro.sample("y", dist.Normal(0, scale), obs=y)

    guide = autoguide.AutoMultivariateNormal(model)
    params = {"auto_loc": np.zeros(1), "auto_scale_tril": 0.1 * np.eye(1)}
    data = to_arviz(jax.random.key(0), model, guide, params, Y, num_samples=40)
    assert set(data.posterior.data_vars) == {"scale", "variance"}
    log_q = stats.lognorm(0.1).logpdf(data.posterior["scale"].values)
    np.testing.assert_allclose(data.sample_stats["log_q"].values, log_q, rtol=ROUND_TRIP_F32)


def test_misuse():
    with pytest.raises(ValueError, match=r"num_samples.*num_chains.*10"):
        to_arviz(jax.random.key(0), conjugate, exact, {}, Y, num_samples=10)
    with pytest.raises(ValueError, match="to_arviz: `batch_size`"):
        to_arviz(jax.random.key(0), conjugate, exact, {}, Y, batch_size=0)
    with pytest.raises(ValueError, match="to_arviz: `guide` must sample"):
        to_arviz(jax.random.key(0), conjugate, lambda y: None, {}, Y)


def test_nan_is_not_put_into_a_container():
    def model(y):
        numpyro.factor("bad", jnp.log(numpyro.sample("z", dist.Normal(0, 1))))

    def prior(y):
        numpyro.sample("z", dist.Normal(0, 1))

    with pytest.raises(FloatingPointError, match=r"to_arviz: .*\(model site 'bad'"):
        to_arviz(jax.random.key(0), model, prior, {}, Y)


@pytest.mark.heavy
def test_arviz_is_imported_when_used_and_may_warn_of_itself(tmp_path):
    """Warnings that ArviZ gives when it is imported are not attributed to flowdists."""
    program = """
import sys, warnings
import flowdists.diagnostics
assert "arviz" not in sys.modules
import jax, numpyro, numpyro.distributions as dist
warnings.filterwarnings("error", module="flowdists")
model = lambda: numpyro.sample("z", dist.Normal(0, 1))
guide = lambda: numpyro.sample("z", dist.Normal(0, 1.1))
flowdists.diagnostics.importance_sampling(jax.random.key(0), model, guide, {})
flowdists.diagnostics.to_arviz(jax.random.key(0), model, guide, {})
assert "arviz" in sys.modules
"""
    cache = {"XDG_CACHE_HOME": str(tmp_path)}  # where ArviZ 0.23 records that it has warned today
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, **cache})
