"""Flows given a context, and flows inside of models."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.distributions import constraints

import flowdists as fd
from tests.flow.examples import build
from tests.tolerances import LOG_DET_F64

KEY = jax.random.key(0)


class TestContext:
    def flow(self):
        return build("nsf", (3,), context_shape=(2,))

    def test_the_batch_is_that_of_the_contexts(self):
        """Values are those of one context at a time: see the tests of recipes' contexts."""
        flow = self.flow()
        batched = flow.condition(np.ones((5, 2), np.float32))
        assert (batched.batch_shape, batched.event_shape) == ((5,), (3,))
        scores, samples = jax.eval_shape(
            lambda flow: (flow.log_prob(jnp.ones((7, 5, 3))), flow.sample(KEY, (2,))), batched
        )
        assert (scores.shape, samples.shape) == ((7, 5), (2, 5, 3))

    def test_rows_of_a_batch_do_not_share_noise_in_distrax(self):
        @jax.jit
        def run(flow, key):
            conditioned = flow.condition(jnp.zeros((4, 2)))
            return conditioned.to_distrax().sample(seed=key), conditioned.sample(key)

        for samples in run(self.flow(), KEY):
            assert len(np.unique(np.asarray(samples)[:, 0])) == 4

    def test_to_distrax_keeps_the_density(self, x64):
        @jax.jit
        def run(flow, key):
            conditioned = flow.condition(jnp.ones((4, 2)))
            x, scores = conditioned.sample_and_log_prob(key, (6,))
            return scores, conditioned.to_distrax().log_prob(x)

        flow = self.flow()
        other = flow.condition(np.ones((4, 2))).to_distrax()
        assert isinstance(other, distrax.Transformed)
        assert (other.batch_shape, other.event_shape) == ((4,), (3,))
        np.testing.assert_allclose(*run(flow, KEY), rtol=LOG_DET_F64, atol=LOG_DET_F64)

    def test_to_distrax_keeps_the_base(self):
        @jax.jit
        def run(flow, x, key):
            samples = flow.to_distrax().sample(seed=key, sample_shape=(2,))
            return samples, flow.to_distrax().log_prob(x), flow.log_prob(x)

        heavy = build("real_nvp", (3,), base=dist.StudentT(5.0))
        x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
        samples, *scores = run(heavy, x, KEY)
        assert samples.shape == (2, 3)
        np.testing.assert_allclose(*scores, rtol=1e-5)

    def test_data_init_standardizes(self):
        data = 5.0 + 3.0 * np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
        flow = build("real_nvp", (3,), 0.0)

        @jax.jit
        def run(flow, data):
            flow = flow.data_init(data)
            return flow.bijector.inverse(data), flow.bijector.layers[-1].log_scale

        z, _ = map(np.asarray, run(flow, data))
        np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-3)
        np.testing.assert_allclose(z.std(0), 1.0, atol=1e-3)
        data[:, 0] = 0.1
        _, log_scale = map(np.asarray, run(flow, data.copy()))
        np.testing.assert_allclose(np.exp(log_scale[0]), 1.0)
        conditional = jax.eval_shape(
            lambda flow: flow.data_init(data, jnp.ones((500, 2))), self.flow()
        )
        assert isinstance(conditional, fd.ConditionalFlow)


class TestInModels:
    def test_a_site_in_a_model(self):
        def model(flow, data=None):
            with numpyro.plate("rows", 3):
                numpyro.sample("x", flow, obs=data)

        @jax.jit
        def run(flow, data, key):
            trace = handlers.trace(handlers.seed(model, key)).get_trace(flow)
            densities = (
                numpyro.infer.util.log_density(each, (flow, data), {}, {})[0]
                for each in (model, handlers.scale(model, scale=2.0))
            )
            return trace["x"]["value"], flow.log_prob(data[0]), *densities

        x, score, density, scaled = run(build("real_nvp", (2,)), np.ones((3, 2), np.float32), KEY)
        assert x.shape == (3, 2)
        np.testing.assert_allclose(density, 3 * score, rtol=1e-5)
        np.testing.assert_allclose(scaled, 6 * score, rtol=1e-5)

    def test_a_context_per_row_of_a_subsampled_plate(self):
        contexts = np.arange(6.0, dtype=np.float32)[:, None]

        def model(flow):
            with numpyro.plate("rows", 6, subsample_size=2) as rows:
                return numpyro.sample("x", flow.condition(jnp.asarray(contexts)[rows]))

        flow = build("maf", (2,), context_shape=(1,))
        x = jax.eval_shape(lambda flow: handlers.seed(model, KEY)(flow), flow)
        assert x.shape == (2, 2)

    def test_validation_by_numpyro(self):
        interval = fd.to_support(constraints.interval(0.0, 1.0))
        flow = fd.Flow(fd.StandardNormal(()), interval, validate_args=True)
        with pytest.warns(UserWarning, match="Out-of-support"):
            flow.log_prob(jnp.array(2.0))
