"""Flows whose parameters have priors."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import infer
from numpyro.diagnostics import effective_sample_size
from numpyro.infer.util import log_density
from scipy import stats

import flowdists as fd
from flowdists.guides import random_flow_module
from tests.guides.module.sites import KEY, TINY, X, affine, prior, sites, values
from tests.tolerances import LOG_DET_F64, STANDARD_ERRORS


class TestRandomModule:
    FLOW = staticmethod(lambda: fd.Flow(fd.StandardNormal((2,)), affine()))

    @pytest.mark.parametrize(
        ("priors", "sampled"),
        [
            (dist.Normal(0, 1), {".loc", ".log_scale"}),
            (dist.Normal(jnp.zeros(2), 1.0), {".loc", ".log_scale"}),
            (dist.Normal(jnp.zeros(2), 1.0).to_event(1), {".loc", ".log_scale"}),
            ({".loc": dist.Normal(0, 1)}, {".loc"}),
            (lambda path, shape: dist.Normal(jnp.zeros(shape), 1), {".loc", ".log_scale"}),
            (lambda path, shape: None if "loc" in path else dist.Normal(), {".log_scale"}),
        ],
    )
    def test_priors(self, priors, sampled):
        model = lambda: numpyro.sample("z", random_flow_module("f", self.FLOW(), priors))
        trace = sites(model)
        kinds = {name: site["type"] for name, site in trace.items() if name != "z"}
        kinds = {name.removeprefix("f"): kind for name, kind in kinds.items()}
        expected = {k: "sample" if k in sampled else "param" for k in (".loc", ".log_scale")}
        assert kinds == expected
        for path in sampled:
            site = trace["f" + path]
            assert site["fn"].event_shape == site["value"].shape == (2,)
            np.testing.assert_allclose(
                site["fn"].log_prob(site["value"]),
                stats.norm.logpdf(site["value"]).sum(),
                rtol=1e-5,
            )

    def test_recipes(self):
        model = lambda: numpyro.sample(
            "z", random_flow_module("f", fd.MAF, dist.Normal(0, 0.1), event_shape=(2,), **TINY)
        )
        drawn = jax.eval_shape(lambda: values(model, kind="sample"))
        params = jax.eval_shape(lambda: values(prior(fd.MAF, event_shape=(2,), **TINY)))
        assert {name.removeprefix("f") for name in drawn} == {
            *(name.removeprefix("prior") for name in params),
            "z",
        }
        for name, value in params.items():
            assert drawn[name.replace("prior", "f", 1)].shape == value.shape

    @pytest.mark.heavy
    def test_nuts_draws_the_posterior_of_a_bayesian_flow(self):
        """Two parameters, a shift and a logarithm of a scale; their posterior, on a grid."""
        x = np.random.default_rng(2).normal(1.0, 2.0, size=(8, 1))
        priors = {".loc": dist.Normal(0.0, 2.0), ".log_scale": dist.Normal(0.5, 0.5)}

        def model():
            layer = random_flow_module("f", fd.Affine(jnp.zeros(1), jnp.ones(1)), priors)
            with numpyro.plate("rows", len(x)):
                numpyro.sample("x", fd.Flow(fd.StandardNormal((1,)), layer), obs=jnp.asarray(x))

        sampler = infer.MCMC(
            infer.NUTS(model), num_warmup=300, num_samples=1500, progress_bar=False
        )
        sampler.run(KEY)
        draws = sampler.get_samples()
        loc, log_scale = np.meshgrid(
            np.linspace(-6, 8, 701), np.linspace(-1.5, 3, 701), indexing="ij"
        )
        log_mass = stats.norm(0, 2).logpdf(loc) + stats.norm(0.5, 0.5).logpdf(log_scale)
        log_mass += stats.norm.logpdf(x[:, :, None], loc, np.exp(log_scale)).sum(0)
        mass = np.exp(log_mass - log_mass.max())
        for name, grid in (("f.loc", loc), ("f.log_scale", log_scale)):
            mean = (mass * grid).sum() / mass.sum()
            variance = (mass * (grid - mean) ** 2).sum() / mass.sum()
            own = np.asarray(draws[name], np.float64)[:, 0]
            for terms, expected in ((own, mean), ((own - mean) ** 2, variance)):
                error = np.sqrt(terms.var() / effective_sample_size(terms[None]))
                assert abs(terms.mean() - expected) < STANDARD_ERRORS * error

    def test_unconstrained_density_is_that_of_the_hand_written_model(self, x64):
        x = jnp.asarray(X, float)

        def model():
            flow = random_flow_module("f", self.FLOW(), dist.Normal(0.2, 2.0))
            with numpyro.plate("rows", len(x)):
                numpyro.sample("x", flow, obs=x)

        loc, log_scale = np.array([0.1, -0.3]), np.array([0.4, 0.2])
        values = {"f.loc": jnp.asarray(loc), "f.log_scale": jnp.asarray(log_scale)}
        density = jax.jit(lambda values: log_density(model, (), {}, values)[0])(values)
        expected = stats.norm(0.2, 2.0).logpdf(np.stack([loc, log_scale])).sum()
        expected += stats.norm.logpdf(x, loc, np.exp(log_scale)).sum()
        np.testing.assert_allclose(density, expected, rtol=LOG_DET_F64)
