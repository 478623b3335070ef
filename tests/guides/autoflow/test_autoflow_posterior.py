"""What a trained guide offers: draws, densities, quantiles, parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers, infer
from numpyro.distributions import constraints
from numpyro.infer.util import log_density
from scipy import stats

import flowdists as fd
from flowdists.guides import AutoFlow, flow_module
from tests.draws import normal
from tests.guides.autoflow.regression import (
    COVARIANCE,
    DATA,
    DESIGN,
    KEY,
    MEAN,
    TINY,
    Y,
    exact,
    linear,
    regression,
    run,
    start,
)
from tests.tolerances import AGREE_F32, STANDARD_ERRORS


class TestPosterior:
    def test_names_of_the_parameters(self, fitted):
        _, params = fitted
        assert {"auto_loc", "auto_scale", "auto_affine.loc", "auto_affine.log_scale"} < set(params)
        others = [name for name in params if name.startswith("auto_flow.layers[")]
        assert len(others) == len(params) - 4

    def test_draws_come_with_deterministic_sites(self, fitted):
        guide, params = fitted
        draws = guide.sample_posterior(KEY, params, sample_shape=(2, 3))
        assert {name: v.shape for name, v in draws.items()} == {
            "level": (2, 3),
            "a_slope": (2, 3, 2),
            "mean": (2, 3, 6),
        }
        slopes = np.concatenate([draws["level"][..., None], draws["a_slope"]], -1)
        np.testing.assert_allclose(draws["mean"], slopes @ DESIGN.T, rtol=1e-4, atol=1e-4)
        flat = guide.get_posterior(params).sample(KEY, (2, 3))
        np.testing.assert_allclose(slopes, flat, rtol=AGREE_F32)
        other = guide.sample_posterior(KEY, params, 2 * DESIGN, Y, sample_shape=(2, 3))
        doubled = 2 * np.asarray(draws["mean"])
        np.testing.assert_allclose(other["mean"], doubled, rtol=1e-4, atol=1e-4)

    def test_transform_and_posterior_agree(self, fitted):
        guide, params = fitted

        @jax.jit
        def densities(params, z):
            x, log_det = guide.get_transform(params).forward_and_log_det(z)
            expected = guide.get_base_dist().log_prob(z) - log_det
            return guide.get_posterior(params).log_prob(x), expected

        found, expected = densities(params, normal(0, (5, 3)))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    def test_quantiles_and_median(self):
        """At its start the guide is the posterior, a normal."""
        guide, params = exact()
        probabilities = np.array([0.05, 0.5, 0.9])
        found = guide.quantiles(params, probabilities, num_samples=4000)
        median = guide.median(params, num_samples=4000)
        joint = np.concatenate([found["level"][:, None], found["a_slope"]], -1)
        marginal = stats.norm(MEAN, np.diag(COVARIANCE) ** 0.5)
        expected = marginal.ppf(probabilities[:, None])
        error = np.sqrt((probabilities * (1 - probabilities))[:, None] / 4000)
        error = error / marginal.pdf(expected)
        assert (np.abs(joint - expected) < STANDARD_ERRORS * error).all()
        assert found["mean"].shape == (3, 6)
        for name, value in median.items():
            np.testing.assert_array_equal(value, found[name][1])
        other = guide.median(params, key=jax.random.key(1), num_samples=4000)
        assert other["level"] != median["level"]
        assert guide.quantiles(params, 0.5, num_samples=10)["a_slope"].shape == (2,)

    def test_sites_of_integers_and_booleans_have_quantiles(self):
        def model():
            x = numpyro.sample("x", dist.Normal(0, 1))
            numpyro.deterministic("positive", x > 0)
            numpyro.deterministic("count", jnp.floor(x).astype(int))

        strategy = infer.init_to_value(values={"x": jnp.array(0.0)})
        guide = AutoFlow(model, linear, init_loc_fn=strategy)
        _, _, params = start(guide)
        found = guide.quantiles(params, [0.1, 0.9], num_samples=200)
        assert found["positive"].tolist() == [0.0, 1.0]
        assert found["count"].tolist() == [-1.0, 0.0]

    def test_predictive(self, fitted):
        guide, params = fitted

        new = AutoFlow(regression, fd.RealNVP, **TINY)
        found = infer.Predictive(new, params=params, num_samples=7)(KEY, *DATA)
        assert found["a_slope"].shape == (7, 2)
        predictive = infer.Predictive(regression, guide=guide, params=params, num_samples=7)
        assert predictive(KEY, *DATA)["mean"].shape == (7, 6)

    def test_saved_parameters_serve_a_new_guide(self, fitted, tmp_path):
        guide, params = fitted
        np.savez(tmp_path / "params.npz", **params)
        loaded = dict(np.load(tmp_path / "params.npz"))
        new = AutoFlow(regression, fd.RealNVP, **TINY)
        options = {"sample_shape": (5,)}
        draws = new.sample_posterior(KEY, loaded, *DATA, **options)
        for name, value in guide.sample_posterior(KEY, params, **options).items():
            np.testing.assert_array_equal(draws[name], value)

    def test_inside_another_model_the_posterior_is_not_trained(self, fitted):
        guide, params = fitted
        model = lambda: numpyro.sample("z", guide.get_posterior(params))
        assert list(handlers.trace(handlers.seed(model, 0)).get_trace()) == ["z"]

    def test_a_model_with_parameters_of_its_own(self):
        def model():
            scale = numpyro.param("scale", 2.0, constraint=constraints.positive)
            shift = flow_module("shift", fd.Affine(jnp.array(0.5), jnp.array(1.0)))
            x = numpyro.sample("x", dist.Normal(0, 1))
            numpyro.deterministic("y", shift(scale * x))

        guide = AutoFlow(model, linear, init_loc_fn=infer.init_to_median)
        svi, state, _ = start(guide)
        params = svi.get_params(jax.jit(svi.update)(state)[0]) | {"scale": jnp.array(3.0)}
        assert "shift.loc" in params
        draw = guide.sample_posterior(KEY, params)
        shift, log_scale, x = map(
            np.asarray, (params["shift.loc"], params["shift.log_scale"], draw["x"])
        )
        expected = shift + 3 * x * np.exp(log_scale)
        np.testing.assert_allclose(draw["y"], expected, rtol=1e-5)

    def test_a_local_latent_variable_for_each_row(self):
        def model():
            scale = numpyro.sample("scale", dist.HalfNormal(1.0))
            with numpyro.plate("rows", 3):
                x = numpyro.sample("x", dist.Normal(0, scale))
                numpyro.sample("y", dist.Normal(x, 1), obs=jnp.arange(3.0))

        guide = AutoFlow(model, linear, prefix="q", init_loc_fn=infer.init_to_median)
        _, _, params = start(guide)
        assert all(name.startswith("q_") for name in params)

        @jax.jit
        def densities(params):
            u = run(guide, params)["_q_latent"]["value"]
            density, _ = log_density(guide, (), {}, {**params, "_q_latent": u})
            return density, guide.get_posterior(params).log_prob(u) - u[0]  # the scale's logarithm

        np.testing.assert_allclose(*densities(params), rtol=1e-5)
