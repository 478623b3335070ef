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
from tests import table
from tests.tolerances import FINITE_DIFFERENCE_F64, LOG_DET_F64


class TestContext:
    def flow(self):
        return table.build_flow("nsf", (3,), context_shape=(2,))

    def test_batched_looped_and_vmapped_agree(self):
        flow = self.flow()
        context = jax.random.normal(jax.random.key(0), (5, 2))
        x = jax.random.normal(jax.random.key(1), (7, 5, 3))
        batched = flow.condition(context)
        assert (batched.batch_shape, batched.event_shape) == ((5,), (3,))
        scores = batched.log_prob(x)
        assert scores.shape == (7, 5)
        score = jax.jit(lambda c, x: flow.condition(c).log_prob(x))
        looped = jnp.stack([score(context[i], x[:, i]) for i in range(5)], -1)
        np.testing.assert_allclose(scores, looped, rtol=1e-5, atol=1e-5)
        vmapped = jax.vmap(lambda c, x: flow.condition(c).log_prob(x), (0, 1), 1)(context, x)
        np.testing.assert_allclose(scores, vmapped, rtol=1e-5, atol=1e-5)
        samples = batched.sample(jax.random.key(0), (2,))
        assert samples.shape == (2, 5, 3)

    def test_gradients_reach_the_context(self, x64):
        flow = self.flow()
        context, direction = jax.random.normal(jax.random.key(0), (2, 4, 2))
        x = jax.random.normal(jax.random.key(1), (4, 3))
        loss = jax.jit(lambda c: flow.condition(c).log_prob(x).sum())
        slope = jnp.vdot(jax.grad(loss)(context), direction)
        step = 1e-6
        difference = (loss(context + step * direction) - loss(context - step * direction)) / (
            2 * step
        )
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(slope, difference, rtol=FINITE_DIFFERENCE_F64)

    def test_rows_of_a_batch_do_not_share_noise_in_distrax(self):
        flow = self.flow().condition(jnp.zeros((4, 2)))
        for samples in (
            flow.to_distrax().sample(seed=jax.random.key(0)),
            flow.sample(jax.random.key(0)),
        ):
            assert len(np.unique(np.asarray(samples)[:, 0])) == 4

    def test_to_distrax_keeps_the_density(self, x64):
        flow = self.flow().condition(jnp.ones((4, 2)))
        x, scores = flow.sample_and_log_prob(jax.random.key(0), (6,))
        other = flow.to_distrax()
        assert isinstance(other, distrax.Transformed)
        assert (other.batch_shape, other.event_shape) == ((4,), (3,))
        np.testing.assert_allclose(other.log_prob(x), scores, rtol=LOG_DET_F64, atol=LOG_DET_F64)
        heavy = table.RECIPES["real_nvp"](jax.random.key(0), (3,), base=dist.StudentT(5.0))
        np.testing.assert_allclose(heavy.to_distrax().log_prob(x), heavy.log_prob(x), rtol=1e-5)
        assert heavy.to_distrax().sample(seed=jax.random.key(0), sample_shape=(2,)).shape == (2, 3)

    def test_data_init_standardizes(self):
        data = 5.0 + 3.0 * jax.random.normal(jax.random.key(0), (500, 3))
        flow = fd.RealNVP(jax.random.key(0), (3,), num_layers=2, hidden_sizes=(8,))
        z = flow.data_init(data).bijector.inverse(data)
        np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-3)
        np.testing.assert_allclose(z.std(0), 1.0, atol=1e-3)
        context = jnp.ones((500, 2))
        constant = jnp.stack([jnp.full(64, 0.1), *data[:64, 1:].T], 1)
        scale = jnp.exp(flow.data_init(constant).bijector.layers[-1].log_scale)
        np.testing.assert_allclose(scale[0], 1.0)
        conditional = self.flow().data_init(data, context)
        assert isinstance(conditional, fd.ConditionalFlow)


class TestInModels:
    def test_a_site_in_a_model(self):
        flow = table.build_flow("real_nvp", (2,))

        def model(data=None):
            with numpyro.plate("rows", 3):
                numpyro.sample("x", flow, obs=data)

        trace = handlers.trace(handlers.seed(model, 0)).get_trace()
        assert trace["x"]["value"].shape == (3, 2)
        data = jnp.ones((3, 2))
        density, _ = numpyro.infer.util.log_density(model, (data,), {}, {})
        np.testing.assert_allclose(density, 3 * flow.log_prob(data[0]), rtol=1e-5)
        scaled = handlers.scale(model, scale=2.0)
        density, _ = numpyro.infer.util.log_density(scaled, (data,), {}, {})
        np.testing.assert_allclose(density, 6 * flow.log_prob(data[0]), rtol=1e-5)

    def test_a_context_per_row_of_a_subsampled_plate(self):
        flow = table.build_flow("maf", (2,), context_shape=(1,))
        contexts = jnp.arange(6.0)[:, None]

        def model():
            with numpyro.plate("rows", 6, subsample_size=2) as rows:
                return rows, numpyro.sample("x", flow.condition(contexts[rows]))

        _, x = handlers.seed(model, 0)()
        assert x.shape == (2, 2)

    def test_validation_by_numpyro(self):
        interval = fd.to_support(constraints.interval(0.0, 1.0))
        flow = fd.Flow(fd.StandardNormal(()), interval, validate_args=True)
        with pytest.warns(UserWarning, match="Out-of-support"):
            flow.log_prob(jnp.array(2.0))
