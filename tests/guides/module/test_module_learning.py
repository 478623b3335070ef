"""Flows that are learned with a model or a guide."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro import infer
from scipy import stats

import flowdists as fd
from flowdists.guides import flow_module
from tests.guides.module.sites import KEY, TINY, X, affine, conditional
from tests.tolerances import FINITE_DIFFERENCE_F64, STANDARD_ERRORS, TRAINED


def train(model, guide, *args, num_steps, num_particles=1):
    """Final parameters, and the losses."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, num_steps))
    svi = infer.SVI(model, guide, optimizer, infer.Trace_ELBO(num_particles))
    result = svi.run(KEY, num_steps, *args, progress_bar=False)
    return result.params, result.losses


class TestLearning:
    def test_a_prior_learned_by_type_two_maximum_likelihood(self):
        """A latent normal plus noise: the evidence is highest where the flow's moments, with the
        noise, are those of the data. The guide can be exact.
        """
        y = np.random.default_rng(0).normal([2.0, -1.0], [1.5, 2.5], size=(200, 2))

        def model(y):
            flow = flow_module("prior", fd.Flow(fd.StandardNormal((2,)), affine()))
            with numpyro.plate("rows", len(y)):
                z = numpyro.sample("z", flow)
                numpyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)

        def guide(y):
            slope = numpyro.param("slope", jnp.zeros(2))
            base = dist.Normal(slope * y, 1.0).to_event(1)
            encoder = flow_module("encoder", fd.Affine(jnp.zeros(2), jnp.ones(2)))
            with numpyro.plate("rows", len(y)):
                numpyro.sample("z", fd.Flow(base, encoder))

        params, _ = train(model, guide, jnp.asarray(y), num_steps=1500)
        scale = np.sqrt(np.exp(2 * params["prior.log_scale"]) + 1)
        evidence = stats.norm(params["prior.loc"], scale).logpdf(y).sum()
        highest = stats.norm(y.mean(0), y.std(0)).logpdf(y).sum()
        assert highest - TRAINED * len(y) < evidence <= highest

    def test_a_learned_density_comes_close_to_the_one_that_drew_the_data(self):
        rng = np.random.default_rng(1)
        first = rng.normal(size=1000)
        x = jnp.asarray(np.stack([first, 0.5 * first**2 + 0.3 * rng.normal(size=1000)], -1))
        truth = stats.norm.logpdf(x[:, 0]) + stats.norm.logpdf(x[:, 1], 0.5 * x[:, 0] ** 2, 0.3)

        def model(x):
            flow = flow_module("prior", fd.MAF, event_shape=(2,), **TINY)
            with numpyro.plate("rows", len(x)):
                numpyro.sample("x", flow, obs=x)

        _, losses = train(model, lambda x: None, x, num_steps=300)
        start, end = losses[0] / len(x), losses[-1] / len(x)
        entropy, error = -truth.mean(), truth.std() / len(x) ** 0.5
        # The flow has seen the data, the truth has not; neither can gain much.
        assert entropy - STANDARD_ERRORS * error < end < entropy + 0.1 < start - 0.5

    def test_in_a_guide(self):
        y = jnp.array([1.5, -0.5])

        def model():
            z = numpyro.sample("z", fd.StandardNormal((2,)))
            numpyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)

        def guide():
            layer = flow_module("q", fd.Affine(jnp.zeros(2), jnp.ones(2)))
            numpyro.sample("z", fd.Flow(fd.StandardNormal((2,)), layer))

        params, _ = train(model, guide, num_steps=600, num_particles=16)
        guided = dist.Normal(params["q.loc"], jnp.exp(params["q.log_scale"]))
        posterior = dist.Normal(0.8 * y, 0.2**0.5)
        assert dist.kl_divergence(guided, posterior).sum() < TRAINED

    def test_gradients_reach_a_context(self, x64):
        flow = conditional()
        x = jnp.asarray(X, float)

        def model(slope):
            conditional = flow_module("f", flow)
            with numpyro.plate("rows", len(x)):
                numpyro.sample("x", conditional.condition(slope * x[:, :1]), obs=x)

        def loss(slope):
            return infer.Trace_ELBO().loss(KEY, {}, model, lambda slope: None, slope)

        slopes = np.array([0.7, 0.7 + 1e-5, 0.7 - 1e-5])
        values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(slopes)
        expected = (values[1] - values[2]) / 2e-5
        assert abs(expected) > 0.1
        np.testing.assert_allclose(gradients[0], expected, rtol=FINITE_DIFFERENCE_F64)

    def test_one_compilation_for_all_parameters(self):
        traces = []

        def model(x):
            traces.append(None)
            numpyro.sample("x", flow_module("f", fd.MAF, event_shape=(2,), **TINY), obs=x)

        svi = infer.SVI(model, lambda x: None, optax.adam(0.1), infer.Trace_ELBO())
        update = jax.jit(svi.update)
        state, _ = update(jax.jit(svi.init)(KEY, X[0]), X[0])
        before = len(traces)
        for _ in range(3):
            state, loss = update(state, X[0])
        assert len(traces) == before
        assert jnp.isfinite(loss)
