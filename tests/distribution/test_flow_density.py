"""Densities of flows against integrals, simulations and Jacobians, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import flowdists as fd
from tests import table
from tests.distribution.examples import ONE_DIMENSIONAL, grid, log_prob, recipes
from tests.tolerances import AGREE_F32, INTEGRAL, LOG_DET_F64, P_VALUE, ROUND_TRIP_F32


class TestDensity:
    @pytest.mark.parametrize("name", ONE_DIMENSIONAL)
    def test_integrates_to_one_and_is_that_of_the_samples_in_one_dimension(self, name, x64):
        flow = table.build_flow(name, (1,))
        axis, step = grid(20_001, 40.0)
        density = np.exp(log_prob(flow, axis[:, None]))
        cdf = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * step)])
        assert abs(cdf[-1] - 1) < INTEGRAL
        samples = flow.sample(jax.random.key(1), (5000,))[:, 0]
        uniform = np.interp(samples, axis, cdf)
        assert stats.kstest(uniform, "uniform").pvalue > P_VALUE

    @recipes
    def test_integrates_to_one_and_is_that_of_the_samples_in_two_dimensions(self, name, x64):
        flow = table.build_flow(name, (2,), scale=0.2)
        points, cells = 960, 24
        axis, step = grid(points, 16.0)
        centers = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        mass = np.exp(log_prob(flow, centers)).reshape(points, points) * step**2
        assert abs(mass.sum() - 1) < INTEGRAL
        expected = mass.reshape(cells, points // cells, cells, points // cells).sum((1, 3)).ravel()
        samples = np.asarray(flow.sample(jax.random.key(1), (20_000,)))
        edges = np.linspace(-16 - step / 2, 16 + step / 2, cells + 1)
        counts = np.histogram2d(*samples.T, [edges, edges])[0].ravel()
        full = expected * len(samples) > 10
        observed = np.append(counts[full], len(samples) - counts[full].sum())
        wanted = np.append(expected[full], 1 - expected[full].sum()) * len(samples)
        assert stats.chisquare(observed, wanted).pvalue > P_VALUE

    @recipes
    def test_sample_and_log_prob_agree_with_log_prob(self, name, x64):
        flow = table.build_flow(name)
        x, scores = flow.sample_and_log_prob(jax.random.key(0), (2, 5))
        assert x.shape == (2, 5, 4)
        np.testing.assert_allclose(scores, log_prob(flow, x), rtol=LOG_DET_F64, atol=LOG_DET_F64)
        np.testing.assert_array_equal(x, flow.sample(jax.random.key(0), (2, 5)))

    @recipes
    def test_a_new_flow_is_its_base(self, name):
        for base in (None, dist.StudentT(4.0), fd.StandardUniform((3,), -1.0, 1.0)):
            flow = table.RECIPES[name](jax.random.key(0), (3,), base=base)
            z = 0.9 * jnp.linspace(-1, 1, 6).reshape(2, 3)
            np.testing.assert_allclose(flow.bijector(z), z, atol=AGREE_F32)
            expected = flow.base_dist.log_prob(z)
            np.testing.assert_allclose(flow.log_prob(z), expected, rtol=1e-5)

    @recipes
    def test_values_and_gradients_are_finite_far_out(self, name):
        flow = table.build_flow(name)
        bijector = jax.tree.map(lambda leaf: 0.2 * leaf, flow.bijector)
        far = np.array([0.0, 1.0, 3.0, 1e2, 1e4, 1e6])
        points = np.concatenate([far, -far])
        x = np.stack([np.roll(points, shift) for shift in range(4)], -1)
        x = jnp.concatenate([x, np.repeat(points[:, None], 4, 1)]).astype(jnp.float32)

        @jax.jit
        def value_and_gradients(bijector, x):
            score = lambda bijector, x: flow.replace(bijector=bijector).log_prob(x)
            scores = jax.vmap(jax.value_and_grad(score, (0, 1)), (None, 0))(bijector, x)
            return scores, bijector.forward_and_log_det(x)

        for leaf in jax.tree.leaves(value_and_gradients(bijector, x)):
            assert jnp.isfinite(leaf).all()

    @recipes
    def test_single_precision_round_trips_at_depth_16(self, name):
        options = {"num_layers": 16, "hidden_sizes": (32, 32)}
        recipe = table.RECIPES[name].func
        if name == "nsf_autoregressive":
            options["autoregressive"] = True
        flow = jax.jit(lambda key: recipe(key, (6,), **options))(jax.random.key(0))
        bijector = table.perturb(jax.random.key(1), flow.bijector, 0.05)
        z = jax.random.normal(jax.random.key(2), (256, 6))
        x, log_det = jax.jit(bijector.forward_and_log_det)(z)
        back, inverse_log_det = jax.jit(bijector.inverse_and_log_det)(x)
        np.testing.assert_allclose(back, z, rtol=ROUND_TRIP_F32, atol=ROUND_TRIP_F32)
        np.testing.assert_allclose(
            inverse_log_det, -log_det, rtol=ROUND_TRIP_F32, atol=10 * ROUND_TRIP_F32
        )


class TestCost:
    def test_a_gradient_evaluates_each_network_once(self):
        """NumPyro's own log_prob, of the same layer, goes through the networks twice."""
        flow = fd.MAF(jax.random.key(0), (16,), num_layers=4, hidden_sizes=(128, 128))
        plain = lambda b: dist.TransformedDistribution(
            dist.Normal(0, 1).expand([16]).to_event(1), [b]
        )
        x = jnp.ones((64, 16))

        def flops(density):
            loss = jax.jit(jax.grad(lambda b: density(b).log_prob(x).sum()))
            return loss.lower(flow.bijector).compile().cost_analysis()["flops"]

        assert flops(lambda b: flow.replace(bijector=b)) < 0.7 * flops(plain)

    @recipes
    def test_the_program_does_not_grow_with_depth(self, name):
        recipe = table.RECIPES[name].func
        extra = {"autoregressive": True} if name == "nsf_autoregressive" else {}

        def size(num_layers):
            make = lambda key: recipe(
                key, (4,), num_layers=num_layers, hidden_sizes=(16, 16), **extra
            )
            flow = jax.eval_shape(make, jax.random.key(0))
            loss = lambda b, x: flow.replace(bijector=b).log_prob(x).sum()
            x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
            return len(jax.jit(jax.value_and_grad(loss)).lower(flow.bijector, x).as_text())

        assert size(32) <= 1.1 * size(4)

    def test_one_compilation_for_all_parameters_and_contexts(self):
        traces = []
        flow = table.build_flow("maf", (3,), context_shape=(2,))

        @jax.jit
        def score(flow, context, x):
            traces.append(None)
            return flow.condition(context).log_prob(x)

        for shift in (0.0, 1.0):
            moved = jax.tree.map(lambda leaf, s=shift: leaf + s, flow)
            score(moved, jnp.full((5, 2), shift), jnp.ones((5, 3)))
        assert len(traces) == 1
