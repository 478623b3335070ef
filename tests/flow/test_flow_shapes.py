"""Shapes and dtypes of flows: events, batches, samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import flowdists as fd
from tests import table
from tests.flow.examples import build, recipes
from tests.tolerances import AGREE_F32

KEY = jax.random.key(0)


class TestShapes:
    def test_expand_to_event_and_mask(self):
        flow = build("real_nvp")
        x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
        wide = flow.expand((3,))
        assert isinstance(wide, fd.Flow)
        assert (wide.batch_shape, wide.event_shape) == ((3,), (4,))
        joint = wide.to_event(1)
        assert (joint.batch_shape, joint.event_shape) == ((), (3, 4))
        wider = wide.expand((2, 3))
        assert (wider.batch_shape, wider.event_shape) == ((2, 3), (4,))
        with pytest.raises(ValueError, match="batch_shape"):
            wide.expand((2,))

        @jax.jit
        def run(wide, x, key):
            masked = wide.mask(jnp.array([True, False, True]))
            return (
                (flow.log_prob(x), wide.log_prob(x), wide.to_event(1).log_prob(x)),
                (masked.log_prob(x), wide.sample(key, (5,))),
            )

        (scores, wide_scores, joint_scores), (masked, samples) = jax.tree.map(
            np.asarray, run(wide, x, KEY)
        )
        assert samples.shape == (5, 3, 4)
        np.testing.assert_allclose(wide_scores, scores, rtol=1e-5)
        np.testing.assert_allclose(joint_scores, scores.sum(-1), rtol=1e-5)
        np.testing.assert_allclose(masked, scores * [1, 0, 1], rtol=1e-5)

    def test_a_scalar_layer_on_a_vector_base(self):
        flow = fd.Flow(fd.StandardNormal((3,)), fd.RationalQuadraticSpline(()))
        assert flow.event_shape == (3,)
        x = np.array([[0.1, 0.2, 5.0]], np.float32)
        scores = jax.jit(lambda flow, x: (flow.log_prob(x), flow.base.log_prob(x)))
        np.testing.assert_allclose(*scores(flow, x), rtol=AGREE_F32)

    def test_a_layer_from_vectors_to_matrices(self):
        onto = fd.to_support(constraints.corr_cholesky)
        flow = fd.Flow(fd.StandardNormal((3,), batch_shape=(5,)), onto)
        assert (flow.batch_shape, flow.event_shape) == ((5,), (3, 3))

    def test_events_of_a_conditional_layer_that_takes_any(self):
        class Shift(fd.Bijector):
            event_shape = None
            event_ndims_in = event_ndims_out = 1
            context_shape = (1,)

            def forward_and_log_det(self, x, context=None):
                return x + context, jnp.zeros(x.shape[:-1])

            def inverse_and_log_det(self, y, context=None):
                return y - context, jnp.zeros(y.shape[:-1])

        flow = fd.ConditionalFlow(fd.StandardNormal((3,)), Shift())
        assert (flow.event_shape, flow.context_shape) == ((3,), (1,))

    def test_the_pytree_of_a_flow_is_its_parameters(self):
        flow = build("nsf")
        assert len(jax.tree.leaves(flow)) == len(jax.tree.leaves(flow.bijector))
        gradient = jax.eval_shape(jax.grad(lambda flow: flow.log_prob(jnp.ones(4))), flow)
        assert isinstance(gradient, fd.Flow)
        assert gradient.recipe == flow.recipe

    def test_flows_in_a_stack(self):
        def scores(keys):
            make = functools.partial(fd.MAF, event_shape=(3,), num_layers=2, hidden_sizes=(8,))
            return jax.vmap(lambda flow: flow.log_prob(jnp.ones(3)))(jax.vmap(make)(keys))

        keys = jax.random.split(jax.random.key(0), 4)
        assert jax.eval_shape(scores, keys).shape == (4,)

    @recipes
    def test_empty_batches(self, name):
        def draw(key):
            flow = table.RECIPES[name](key, (4,))
            # NumPyro's check fails here.
            flow = fd.Flow(flow.base, flow.bijector, validate_args=False)
            x, scores = flow.sample_and_log_prob(key, (0,))
            return x, scores, flow.log_prob(x)

        x, *scores = jax.eval_shape(draw, KEY)
        assert x.shape == (0, 4) and all(score.shape == (0,) for score in scores)

    def test_an_empty_batch_runs(self):
        draw = jax.jit(lambda flow: flow.sample_and_log_prob(KEY, (0,)))
        x, scores = draw(build("maf"))
        assert (x.shape, scores.shape) == ((0, 4), (0,))

    @recipes
    def test_low_precision_networks_give_single_precision_densities(self, name):
        shapes = jax.eval_shape(functools.partial(table.RECIPES[name], event_shape=(4,)), KEY)
        flow = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), shapes)
        x = jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)
        assert jax.eval_shape(lambda flow, x: flow.log_prob(x), flow, x).dtype == jnp.float32

    def test_events_of_any_rank(self):
        for name in ("real_nvp", "maf", "nsf"):
            flow = build(name, (2, 3))
            x, scores = jax.eval_shape(lambda flow: flow.sample_and_log_prob(KEY, (5,)), flow)
            assert (x.shape, scores.shape) == ((5, 2, 3), (5,))
            assert flow.support.event_dim == 2
