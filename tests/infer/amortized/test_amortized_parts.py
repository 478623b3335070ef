"""What encoder, flows and start of the amortized guide may be."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import infer

import flowdists as fd
from tests.infer.amortized.models import (
    KEY,
    SMALL,
    hierarchical,
    linear_gaussian,
    linear_gaussian_data,
    network,
    small_guide,
    start,
    two_plates,
)
from tests.tolerances import STANDARD_ERRORS


class TestParts:
    def test_equinox_sees_one_row(self):
        seen = []

        class Net(eqx.Module):
            layer: eqx.nn.Linear

            def __call__(self, row):
                seen.append(row.shape)
                return jax.nn.tanh(self.layer(row.ravel()))

        def model(x):
            with numpyro.plate("data", len(x)):
                numpyro.sample("z", dist.Normal(x.sum((1, 2)), 1.0))

        guide = small_guide(model, Net(eqx.nn.Linear(6, 4, key=KEY)))
        _, _, params = start(guide, jnp.ones((5, 2, 3)))
        assert set(seen) == {(2, 3)}
        assert params["auto_encoder.layer.weight"].shape == (4, 6)

    def test_built_flows(self):
        local = fd.MAF(KEY, (1,), context_shape=(3 + 1,), **SMALL)
        guide = small_guide(
            hierarchical,
            flow=local,
            flow_options=None,
            global_flow=fd.MAF(KEY, (1,), **SMALL),
            global_options=None,
        )
        _, _, params = start(guide, linear_gaussian_data(6))
        assert guide.global_posterior(params).event_shape == (1,)
        given = guide.local_posterior(params, jnp.ones(6), jnp.zeros((10, 1, 1)))
        assert (given.batch_shape, given.event_shape) == ((10, 6), (1,))

    def test_the_default_recipe_does_with_one_dimension(self):
        tiny = {"num_layers": 1, "hidden_sizes": (4,), "num_bins": 2}
        guide = fd.AutoAmortizedFlow(linear_gaussian, network(), flow_options=tiny)
        _, _, params = start(guide, linear_gaussian_data(6))
        assert guide.local_posterior(params, jnp.ones(2)).event_shape == (1,)

    def test_the_start(self):
        """Around the given values, of local sites their mean."""
        y = linear_gaussian_data(6)
        values = {"mean": 3.0, "effect": jnp.arange(6.0)}
        guide = small_guide(
            hierarchical, init_loc_fn=infer.init_to_value(values=values), init_scale=0.01
        )
        _, _, params = start(guide, y)
        draws = guide.sample_posterior(KEY, params, y, sample_shape=(100,))
        error = STANDARD_ERRORS * 0.01
        np.testing.assert_allclose(draws["mean"], 3.0, atol=error)
        # What is linear in the context starts at random, a few units of the scale off.
        np.testing.assert_allclose(draws["effect"], 2.5, atol=5 * error)

    def test_of_several_plates_the_subsampled_one_is_that_of_the_data(self):
        guide = small_guide(two_plates)
        _, _, params = start(guide, jnp.ones(6), 3)
        assert guide.global_posterior(params).event_shape == (4,)
        assert guide.local_posterior(params, jnp.ones(6)[:2], jnp.ones(4)).batch_shape == (2,)
