"""What encoder, flows and start of the amortized guide may be."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro import infer

import flowdists as fd
from tests.guides.amortized.models import (
    KEY,
    SMALL,
    built,
    drawn_params,
    gaussian_guide,
    hierarchical,
    linear_gaussian,
    linear_gaussian_data,
    network,
    small_guide,
    start,
    start_shapes,
    two_plates,
)
from tests.tolerances import STANDARD_ERRORS


def draws_of(posterior, *args):
    """The shape of a draw from a flow of the guide."""
    return jax.eval_shape(lambda *args: posterior(*args).sample(KEY), *args).shape


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

        encoder = Net(built(lambda key: eqx.nn.Linear(6, 4, key=key)))
        guide = gaussian_guide(model, encoder, context_size=4)
        shapes = start_shapes(guide, jnp.ones((5, 2, 3)))
        assert set(seen) == {(2, 3)}
        assert shapes["auto_encoder.layer.weight"].shape == (4, 6)

    def test_built_flows(self):
        guide = fd.AutoAmortizedFlow(
            hierarchical,
            network(),
            flow=built(fd.MAF, event_shape=(1,), context_shape=(3 + 1,), **SMALL),
            global_flow=built(fd.MAF, event_shape=(1,), **SMALL),
        )
        params = drawn_params(guide, linear_gaussian_data(6))
        assert draws_of(guide.global_posterior, params) == (1,)
        given = (params, np.ones(6), np.zeros((10, 1, 1)))
        assert draws_of(guide.local_posterior, *given) == (10, 6, 1)

    def test_the_default_recipe_does_with_one_dimension(self):
        tiny = {"num_layers": 1, "hidden_sizes": (4,), "num_bins": 2}
        guide = fd.AutoAmortizedFlow(linear_gaussian, network(), flow_options=tiny)
        params = drawn_params(guide, linear_gaussian_data(6))
        assert draws_of(guide.local_posterior, params, np.ones(2)) == (2, 1)

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
        guide = gaussian_guide(
            two_plates,
            context_size=1 + 4,
            global_flow=built(fd.MAF, event_shape=(4,), **SMALL),
        )
        params = drawn_params(guide, jnp.ones(6), 3)
        assert draws_of(guide.global_posterior, params) == (4,)
        assert draws_of(guide.local_posterior, params, np.ones(2), np.ones(4)) == (2, 1)


class TestModelRuns:
    """Each run of the model's Python code costs time at every compilation."""

    def test_numbers_of_runs(self):
        calls = []

        def counted(y):
            calls.append(len(y))
            hierarchical(y)

        guide = gaussian_guide(counted, context_size=2)
        y = linear_gaussian_data(6)
        svi = infer.SVI(counted, guide, optax.sgd(1e-2), infer.Trace_ELBO())
        state = jax.eval_shape(lambda key: svi.init(key, y), KEY)
        assert len(calls) <= 4  # NumPyro's search for a start, and the run of SVI
        calls.clear()
        jax.eval_shape(lambda state: svi.update(state, y), state)
        assert len(calls) == 2  # the guide's, for the layout, and that of SVI
