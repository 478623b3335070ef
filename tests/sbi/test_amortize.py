"""Posteriors and likelihoods learned from simulations, against closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from scipy import stats

import flowdists as fd
from flowdists.metrics import expected_coverage
from tests.tolerances import P_VALUE

TINY = {
    "flow_options": {"num_layers": 1, "hidden_sizes": (8,)},
    "fit_options": {"max_epochs": 2, "progress": False},
}


def gaussian():
    loc = numpyro.sample("loc", dist.Normal(100.0, 20.0))
    numpyro.sample("x", dist.Normal(loc, 10.0).expand([4]).to_event(1))


def box():
    theta = numpyro.sample("theta", dist.Uniform(-1.0, 1.0).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    numpyro.sample("x", dist.Normal(theta, 3.0 + tau).to_event(1))


def exact(x):
    """The closed-form posterior of the Gaussian model."""
    precision = 1 / 20.0**2 + 4 / 10.0**2
    return (100.0 / 20.0**2 + x.sum() / 10.0**2) / precision, precision**-0.5


@pytest.fixture(scope="module")
def learned():
    return fd.amortize(
        jax.random.key(0),
        gaussian,
        observed="x",
        num_simulations=20_000,
        flow_options={"num_layers": 2, "hidden_sizes": (32, 32)},
        fit_options={"max_epochs": 20, "progress": False},
    )


@pytest.mark.heavy
def test_closed_form_posterior_at_once_for_all_data(learned, key):
    posterior, history = learned
    assert history.validation.shape == history.train.shape
    for x in (jnp.array([90.0, 110.0, 95.0, 80.0]), jnp.array([130.0, 125.0, 120.0, 150.0])):
        mean, deviation = exact(x)
        draws = posterior.sample(key, {"x": x}, (20_000,))["loc"]
        assert abs(draws.mean() - mean) < 0.15 * deviation
        assert abs(draws.std() / deviation - 1) < 0.1
        values = jnp.array([mean - deviation, mean])
        expected = stats.norm(mean, deviation).logpdf(values)
        np.testing.assert_allclose(posterior.log_prob({"loc": values}, x), expected, atol=0.15)


@pytest.mark.heavy
def test_calibrated(learned, key):
    posterior, _ = learned
    theta, x = fd.Simulator(gaussian, observed="x").draw(key, 300)
    result = expected_coverage(key, posterior.flow, theta, x, num_draws=200)
    assert fd.uniformity_pvalues({"level": result.ranks}, 200)["level"] > P_VALUE
    ranks = fd.calibration_ranks(
        key,
        gaussian,
        lambda key, data: posterior.sample(key, data, (99,)),
        observed="x",
        num_simulations=300,
        num_draws=99,
        vectorized=True,
    )
    assert fd.uniformity_pvalues(ranks, 99)["loc"] > P_VALUE


def test_draws_never_leave_the_prior(key):
    posterior, _ = fd.amortize(key, box, observed="x", num_simulations=300, **TINY)
    draws = posterior.sample(key, {"x": jnp.array([[0.0, 0.0], [50.0, -80.0]])}, (20_000,))
    assert (jnp.abs(draws["theta"]) <= 1).all() and (draws["tau"] > 0).all()
    assert {name: value.shape for name, value in draws.items()} == {
        "theta": (20_000, 2, 2),
        "tau": (20_000, 2),
    }


def test_what_is_not_asked_for_is_averaged_over(key):
    posterior, _ = fd.amortize(key, box, observed="x", latents="theta", num_simulations=300, **TINY)
    assert posterior.sample(key, jnp.ones(2), (3,)).keys() == {"theta"}


def test_an_embedding_sees_the_datas_own_shape(key):
    def points():
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("points", 5):
            numpyro.sample("x", dist.Normal(loc, 1.0).to_event(1))

    network = fd.DeepSets(key, 2, 4, hidden_sizes=(8,))
    posterior, _ = fd.amortize(
        key, points, observed="x", num_simulations=200, embedding=network, **TINY
    )
    assert posterior.flow.context_shape == (5, 2)
    x = jax.random.normal(key, (7, 5, 2))
    scores = posterior.log_prob({"loc": jnp.zeros(2)}, {"x": x})
    np.testing.assert_allclose(
        scores, posterior.log_prob({"loc": jnp.zeros(2)}, {"x": x[:, ::-1]}), rtol=1e-4
    )


def test_a_foreign_embedding_and_another_flow(key):
    network = eqx.nn.MLP(4, 3, width_size=8, depth=1, key=key)
    posterior, _ = fd.amortize(
        key,
        gaussian,
        observed="x",
        num_simulations=200,
        flow=fd.MAF,
        embedding=network,
        **TINY,
    )
    assert posterior.flow.recipe.name == "MAF"
    assert posterior.sample(key, jnp.full(4, 100.0), (5,))["loc"].shape == (5,)


def test_saved_and_put_back(key, tmp_path):
    posterior, _ = fd.amortize(key, box, observed="x", num_simulations=200, **TINY)
    fd.save(tmp_path / "posterior", posterior.flow)
    simulator = fd.Simulator(box, observed="x")
    loaded = fd.SiteFlow(fd.load(tmp_path / "posterior"), simulator.latents, simulator.data)
    first, second = (p.sample(key, jnp.ones(2), (4,)) for p in (posterior, loaded))
    np.testing.assert_array_equal(first["theta"], second["theta"])


def test_saved_with_an_embedding(key, tmp_path):
    network = fd.MLP(key, 2, 4, hidden_sizes=(8,), output_scale=1.0)
    posterior, _ = fd.amortize(
        key, box, observed="x", num_simulations=200, embedding=network, **TINY
    )
    fd.save(tmp_path / "posterior", posterior.flow)
    simulator = fd.Simulator(box, observed="x")
    like = fd.NSF(
        jax.random.key(0),
        (simulator.latents.size,),
        context_shape=simulator.data.shape,
        support=simulator.support,
        embedding=network,
        autoregressive=True,
        residual=True,
        **TINY["flow_options"],
    )
    flow = fd.load(tmp_path / "posterior", like=like)
    loaded = fd.SiteFlow(flow, simulator.latents, simulator.data)
    first, second = (p.sample(key, jnp.ones(2), (4,)) for p in (posterior, loaded))
    np.testing.assert_array_equal(first["theta"], second["theta"])


def test_one_compilation_for_new_data(key):
    posterior, _ = fd.amortize(key, gaussian, observed="x", num_simulations=200, **TINY)
    sample = jax.jit(lambda posterior, x: posterior.sample(key, {"x": x}, (5,)))
    sample(posterior, jnp.ones(4))
    sample(jax.tree.map(lambda leaf: leaf + 0.1, posterior), jnp.zeros(4))
    assert sample._cache_size() == 1


@pytest.mark.heavy
def test_a_learned_likelihood_in_a_model(key):
    likelihood, _ = fd.amortize_likelihood(
        key,
        gaussian,
        observed="x",
        num_simulations=4000,
        flow_options={"num_layers": 2, "hidden_sizes": (32, 32)},
        fit_options={"max_epochs": 30, "progress": False},
    )
    x = jnp.array([90.0, 110.0, 95.0, 80.0])

    def model():
        loc = numpyro.sample("loc", dist.Normal(100.0, 20.0))
        numpyro.sample("x", likelihood.condition({"loc": loc}), obs=x)

    mcmc = MCMC(NUTS(model), num_warmup=300, num_samples=1000, progress_bar=False)
    mcmc.run(key)
    mean, deviation = exact(x)
    draws = mcmc.get_samples()["loc"]
    assert abs(draws.mean() - mean) < 0.4 * deviation
    assert abs(draws.std() / deviation - 1) < 0.3


MISUSE = {
    "flow": ({"flow": 3}, TypeError, "flow"),
    "unconditional flow": ({"flow": lambda *a, **k: fd.MAF(a[0], (1,))}, TypeError, "Conditional"),
    "simulations": ({"num_simulations": 0}, ValueError, "num_draws|num_simulations"),
    "observed": ({"observed": "nope"}, ValueError, "observed"),
    "invalid": ({"invalid": "keep"}, ValueError, "invalid"),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse(case, key):
    options, kind, message = MISUSE[case]
    with pytest.raises(kind, match=message):
        fd.amortize(key, gaussian, **{"observed": "x", "num_simulations": 50, **options})


def test_misuse_of_a_posterior(key):
    posterior, _ = fd.amortize(key, gaussian, observed="x", num_simulations=50, **TINY)
    for data, message in (
        ({"y": jnp.ones(4)}, "missing"),
        ({"x": jnp.ones(3)}, r"\(3,\)"),
        (jnp.ones(3), r"\(3,\)"),
        ({"x": jnp.array([1.0, 2.0, jnp.nan, 3.0])}, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            posterior.sample(key, data)
    with pytest.raises(ValueError, match="SiteFlow"):
        posterior.replace(flow=fd.MAF(key, (2,), context_shape=(4,)))


def test_a_simulator_that_gives_nan_is_an_error(key):
    def broken():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Delta(jnp.log(z)))

    with pytest.raises(ValueError, match=r"amortize: .* in 'x' in \d+ of 50 .*drop"):
        fd.amortize(key, broken, observed="x", num_simulations=50, **TINY)
    with pytest.raises(ValueError, match=r"amortize_likelihood: .* in 'x' in \d+ of 50 .*bias"):
        fd.amortize_likelihood(key, broken, observed="x", num_simulations=50, **TINY)


@pytest.mark.parametrize("loc", [0.0, -10.0])
def test_simulations_with_nan_can_be_left_out(loc, key):
    def broken():
        z = numpyro.sample("z", dist.Normal(loc, 1.0))
        numpyro.sample("x", dist.Delta(jnp.log(z)))

    def learn():
        return fd.amortize(key, broken, observed="x", num_simulations=400, invalid="drop", **TINY)

    if loc == -10.0:
        with pytest.raises(ValueError, match="0 of 400 are left"):
            learn()
        return
    x = fd.Simulator(broken, observed="x").draw(jax.random.split(key, 3)[0], 400)[1]
    with pytest.warns(RuntimeWarning, match=rf"{jnp.isnan(x).mean():.2%} .*'x'") as record:
        posterior, _ = learn()
    assert record[0].filename == __file__
    draws = posterior.sample(key, 0.0, (1000,))["z"]
    assert jnp.isfinite(draws).all() and draws.mean() > 0.2  # where z is positive


def test_a_prior_that_draws_nan_is_an_error(key):
    class Undefined(dist.Normal):
        def sample(self, key, sample_shape=()):
            return jnp.nan * super().sample(key, sample_shape)

    def broken():
        numpyro.sample("z", Undefined(0.0, 1.0))
        numpyro.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"prior .*'z' in 50 of 50"):
        fd.amortize(key, broken, observed="x", num_simulations=50, invalid="drop", **TINY)


def test_a_likelihood_has_the_datas_support(key):
    def positive():
        rate = numpyro.sample("rate", dist.Uniform(0.5, 2.0))
        numpyro.sample("x", dist.Exponential(rate).expand([2]).to_event(1))

    likelihood, _ = fd.amortize_likelihood(key, positive, observed="x", num_simulations=200, **TINY)
    given = likelihood.condition({"rate": 1.0})
    assert (given.sample(key, (1000,)) > 0).all() and given.support(jnp.ones(2))


def test_a_likelihood_of_discrete_data_is_an_error(key):
    def counts():
        rate = numpyro.sample("rate", dist.Uniform(0.5, 2.0))
        numpyro.sample("x", dist.Poisson(rate).expand([2]).to_event(1))

    with pytest.raises(ValueError, match=r"continuous.*'x'.*dequantize"):
        fd.amortize_likelihood(key, counts, observed="x", num_simulations=50, **TINY)
