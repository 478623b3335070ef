"""Shapes of flows: events, batches, samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowdists as fd
from tests import table
from tests.distribution.examples import recipes
from tests.tolerances import AGREE_F32


class TestShapes:
    def test_expand_to_event_and_mask(self):
        flow = table.build_flow("real_nvp")
        x = jax.random.normal(jax.random.key(0), (5, 3, 4))
        wide = flow.expand((3,))
        assert isinstance(wide, fd.Flow)
        assert (wide.batch_shape, wide.event_shape) == ((3,), (4,))
        assert wide.sample(jax.random.key(0), (5,)).shape == (5, 3, 4)
        np.testing.assert_allclose(wide.log_prob(x), flow.log_prob(x), rtol=1e-5)
        joint = wide.to_event(1)
        assert joint.event_shape == (3, 4)
        np.testing.assert_allclose(joint.log_prob(x), flow.log_prob(x).sum(-1), rtol=1e-5)
        masked = wide.mask(jnp.array([True, False, True]))
        np.testing.assert_allclose(masked.log_prob(x)[:, 1], 0.0)
        with pytest.raises(ValueError, match="batch_shape"):
            wide.expand((2,))

    def test_a_scalar_layer_on_a_vector_base(self):
        flow = fd.Flow(fd.StandardNormal((3,)), fd.RationalQuadraticSpline(()))
        assert flow.event_shape == (3,)
        x = jnp.array([[0.1, 0.2, 5.0]])
        np.testing.assert_allclose(
            flow.log_prob(x), fd.StandardNormal((3,)).log_prob(x), rtol=AGREE_F32
        )

    def test_the_pytree_of_a_flow_is_its_parameters(self):
        flow = table.build_flow("nsf")
        assert len(jax.tree.leaves(flow)) == len(jax.tree.leaves(flow.bijector))
        gradient = jax.grad(lambda flow: flow.log_prob(jnp.ones(4)))(flow)
        assert isinstance(gradient, fd.Flow)
        assert gradient.recipe == flow.recipe
        stacked = jax.vmap(lambda key: fd.MAF(key, (3,), num_layers=2, hidden_sizes=(8,)))(
            jax.random.split(jax.random.key(0), 4)
        )
        assert jax.vmap(lambda f: f.log_prob(jnp.ones(3)))(stacked).shape == (4,)

    @recipes
    def test_empty_batches(self, name):
        flow = table.build_flow(name)
        flow = fd.Flow(flow.base, flow.bijector, validate_args=False)  # NumPyro's check fails here
        x, scores = flow.sample_and_log_prob(jax.random.key(0), (0,))
        assert (x.shape, scores.shape) == ((0, 4), (0,))
        assert flow.log_prob(x).shape == (0,)

    @recipes
    def test_low_precision_networks_give_single_precision_densities(self, name):
        flow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), table.build_flow(name))
        x = jnp.ones((3, 4), jnp.bfloat16)
        assert flow.log_prob(x).dtype == jnp.float32

    def test_events_of_any_rank(self):
        for name in ("real_nvp", "maf", "nsf"):
            flow = table.build_flow(name, (2, 3))
            x, scores = flow.sample_and_log_prob(jax.random.key(0), (5,))
            assert (x.shape, scores.shape) == ((5, 2, 3), (5,))
            assert flow.support.event_dim == 2
