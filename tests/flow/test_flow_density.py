"""Densities of flows against integrals, simulations and Jacobians, and what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import flowdists as fd
from tests import table
from tests.flow.examples import ONE_DIMENSIONAL, build, grid, recipes
from tests.tolerances import (
    AGREE_F32,
    INTEGRAL,
    LOG_DET_F64,
    P_VALUE,
    ROUND_TRIP_F32,
)

POINTS, CELLS, HALF_WIDTH = 480, 24, 16.0


@functools.partial(jax.jit, static_argnums=3)
def densities_and_draws(flow, points, key, num_draws):
    """Densities at the points, and draws with their densities twice: given along, and computed."""
    draws, given = flow.sample_and_log_prob(key, (num_draws,))
    scores = flow.log_prob(jnp.concatenate([points, draws]))
    return jnp.exp(scores[: len(points)]), (draws, given, scores[len(points) :])


@functools.cache
def in_the_plane(name):
    """What the recipe's flow of two dimensions says. In double precision, as its tests are."""
    axis, _ = grid(POINTS, HALF_WIDTH)
    centers = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    flow = build(name, (2,), 0.2)
    return jax.tree.map(np.asarray, densities_and_draws(flow, centers, jax.random.key(1), 20_000))


class TestDensity:
    @pytest.mark.parametrize("name", ONE_DIMENSIONAL)
    def test_integrates_to_one_and_is_that_of_the_samples_in_one_dimension(self, name, x64):
        axis, step = grid(20_001, 40.0)
        flow = build(name, (1,))
        density, (samples, *_) = jax.tree.map(
            np.asarray, densities_and_draws(flow, axis[:, None], jax.random.key(1), 5000)
        )
        cdf = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * step)])
        assert abs(cdf[-1] - 1) < INTEGRAL
        uniform = np.interp(samples[:, 0], axis, cdf)
        assert stats.kstest(uniform, "uniform").pvalue > P_VALUE

    @recipes
    def test_integrates_to_one_and_is_that_of_the_samples_in_two_dimensions(self, name, x64):
        density, (samples, *_) = in_the_plane(name)
        _, step = grid(POINTS, HALF_WIDTH)
        mass = density.reshape(POINTS, POINTS) * step**2
        assert abs(mass.sum() - 1) < INTEGRAL
        expected = mass.reshape(CELLS, POINTS // CELLS, CELLS, POINTS // CELLS).sum((1, 3)).ravel()
        edges = np.linspace(-HALF_WIDTH - step / 2, HALF_WIDTH + step / 2, CELLS + 1)
        counts = np.histogram2d(*samples.T, [edges, edges])[0].ravel()
        full = expected * len(samples) > 10
        observed = np.append(counts[full], len(samples) - counts[full].sum())
        wanted = np.append(expected[full], 1 - expected[full].sum()) * len(samples)
        assert stats.chisquare(observed, wanted).pvalue > P_VALUE

    @recipes
    def test_sample_and_log_prob_agree_with_log_prob(self, name, x64):
        _, (x, given, scores) = in_the_plane(name)
        assert x.shape == (20_000, 2)
        np.testing.assert_allclose(given, scores, rtol=LOG_DET_F64, atol=LOG_DET_F64)

    @recipes
    def test_sample_and_log_prob_draw_what_sample_draws(self, name, x64):
        """Exactly, step by step: a compiler may round alike steps of two programs differently."""
        flow, key = build(name, (2,), 0.2), jax.random.key(0)
        x, _ = flow.sample_and_log_prob(key, (2, 5))
        assert x.shape == (2, 5, 2)
        np.testing.assert_array_equal(x, flow.sample(key, (2, 5)))

    @recipes
    def test_a_new_flow_is_its_base(self, name):
        z = 0.9 * np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)

        @jax.jit
        def run(key, z):
            flow = table.RECIPES[name](key, (3,))
            return flow.bijector(z), flow.log_prob(z)

        x, scores = run(jax.random.key(0), z)
        np.testing.assert_allclose(x, z, atol=AGREE_F32)
        np.testing.assert_allclose(scores, stats.norm.logpdf(z).sum(-1), rtol=1e-5)

    def test_a_new_flow_is_the_base_that_it_was_given(self):
        z = 0.9 * np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)

        @jax.jit
        def run(key, z):
            bases = dist.StudentT(4.0), fd.StandardUniform((3,), -1.0, 1.0)
            return [table.RECIPES["maf"](key, (3,), base=base).log_prob(z) for base in bases]

        student, uniform = run(jax.random.key(0), z)
        np.testing.assert_allclose(student, stats.t.logpdf(z, 4).sum(-1), rtol=1e-5)
        np.testing.assert_allclose(uniform, np.full(2, -3 * np.log(2)), rtol=1e-5)

    @recipes
    def test_values_and_gradients_are_finite_far_out(self, name):
        far = np.array([0.0, 1.0, 3.0, 1e2, 1e4, 1e6])
        points = np.concatenate([far, -far])
        x = np.stack([np.roll(points, shift) for shift in range(4)], -1)
        x = np.concatenate([x, np.repeat(points[:, None], 4, 1)]).astype(np.float32)

        @jax.jit
        def run(flow, x):
            score = lambda bijector, x: flow.replace(bijector=bijector).log_prob(x).sum()
            gradients = jax.value_and_grad(score, (0, 1))(flow.bijector, x)
            return gradients, flow.log_prob(x), flow.bijector.forward_and_log_det(x)

        for leaf in jax.tree.leaves(run(build(name, scale=0.1), x)):
            assert np.isfinite(leaf).all()

    @recipes
    def test_single_precision_round_trips_at_depth_16(self, name):
        flow = build(name, (6,), 0.1, num_layers=16, hidden_sizes=(16, 16), activation="relu")
        z = np.random.default_rng(2).normal(size=(256, 6)).astype(np.float32)

        @jax.jit
        def there_and_back(bijector, z):
            x, log_det = bijector.forward_and_log_det(z)
            return log_det, *bijector.inverse_and_log_det(x)

        log_det, back, inverse_log_det = map(np.asarray, there_and_back(flow.bijector, z))
        assert np.abs(log_det).max() > 0.1
        np.testing.assert_allclose(back, z, rtol=ROUND_TRIP_F32, atol=ROUND_TRIP_F32)
        np.testing.assert_allclose(
            inverse_log_det, -log_det, rtol=ROUND_TRIP_F32, atol=10 * ROUND_TRIP_F32
        )


class TestCost:
    def test_a_gradient_evaluates_each_network_once(self):
        """NumPyro's own log_prob, of the same layer, goes through the networks twice."""
        make = functools.partial(fd.MAF, event_shape=(8,), num_layers=2, hidden_sizes=(128, 128))
        flow = jax.eval_shape(make, jax.random.key(0))
        plain = lambda b: dist.TransformedDistribution(
            dist.Normal(0, 1).expand([8]).to_event(1), [b]
        )
        x = jax.ShapeDtypeStruct((64, 8), np.float32)

        def flops(density):
            loss = jax.jit(jax.grad(lambda b, x: density(b).log_prob(x).sum()))
            return loss.lower(flow.bijector, x).compile().cost_analysis()["flops"]

        assert flops(lambda b: flow.replace(bijector=b)) < 0.7 * flops(plain)

    @recipes
    def test_the_program_does_not_grow_with_depth(self, name):
        def size(num_layers):
            make = functools.partial(table.RECIPES[name], event_shape=(4,), num_layers=num_layers)
            flow = jax.eval_shape(make, jax.random.key(0))
            x = jax.ShapeDtypeStruct((8, 4), np.float32)
            return len(str(jax.make_jaxpr(lambda flow, x: flow.log_prob(x))(flow, x)))

        assert size(32) <= 1.1 * size(4)

    def test_one_compilation_for_all_parameters_and_contexts(self):
        traces = []

        @jax.jit
        def score(flow, context, x):
            traces.append(None)
            return flow.condition(context).log_prob(x)

        for scale in (0.3, 0.5):
            flow = build("maf", (3,), scale, context_shape=(2,))
            jax.eval_shape(score, flow, np.full((5, 2), scale, np.float32), np.ones((5, 3)))
        assert len(traces) == 1
