"""The guide under NumPyro's losses."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import infer

import flowdists as fd
from flowdists.guides import AutoFlow
from tests.guides.autoflow.regression import (
    DATA,
    DESIGN,
    EVIDENCE,
    KEY,
    TINY,
    Y,
    assert_mean,
    elbos,
    exact,
    linear,
    perturbed,
    regression,
    run,
    start,
)
from tests.tolerances import ROUND_TRIP_F64

LOSSES = {
    "elbo": infer.Trace_ELBO(num_particles=3),
    "mean_field": infer.TraceMeanField_ELBO(num_particles=2),
    "graph": infer.TraceGraph_ELBO(num_particles=2),
    "renyi": infer.RenyiELBO(alpha=0.5, num_particles=3),
}


class TestLosses:
    @pytest.mark.filterwarnings("error::UserWarning")
    @pytest.mark.parametrize("name", sorted(LOSSES))
    def test_every_particle_of_an_exact_guide_gives_the_evidence(self, name, x64):
        guide, params = exact()
        svi, state, _ = start(guide, *DATA, loss=LOSSES[name], init_params=params)
        state, loss = jax.jit(svi.update)(state, *DATA)
        np.testing.assert_allclose(loss, -EVIDENCE, rtol=ROUND_TRIP_F64)
        for value in jax.tree.leaves(svi.get_params(state)):
            assert value.dtype == jnp.float64 and jnp.isfinite(value).all()

    def test_training_improves_the_elbo_of_a_curved_posterior(self):
        def model():
            x = numpyro.sample("x", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(x**2, 0.3))

        guide = AutoFlow(model, fd.RealNVP, **TINY)
        svi = infer.SVI(model, guide, optax.adam(1e-2), infer.Trace_ELBO(16))
        losses = svi.run(KEY, 500, progress_bar=False).losses
        # The evidence of a model without data is one.
        assert losses[:20].mean() - 0.3 > losses[-50:].mean() > -0.05

    def test_subsampled_observations(self):
        y = jnp.asarray(Y)

        def model(batch_size):
            x = numpyro.sample("x", dist.Gamma(2.0, 1.0))
            with numpyro.plate("rows", 6, subsample_size=batch_size):
                batch = numpyro.subsample(y, event_dim=0)
                numpyro.sample("y", dist.Normal(x, 1.0), obs=batch)

        guide = AutoFlow(model, linear, init_loc_fn=infer.init_to_median)
        _, _, params = start(guide, 2)
        assert guide.sample_posterior(KEY, params)["x"].shape == ()
        # Each key draws a batch; the guide's draws are the same ones with batches and without.
        assert_mean(elbos(guide, params, 2) - elbos(guide, params, 6), 0.0)

    @pytest.mark.filterwarnings("error::UserWarning")
    @pytest.mark.parametrize("init", [None, infer.init_to_median])
    def test_under_jit_as_without(self, init):
        """NumPyro orders the sites differently for a traced key; the parameters mean the same."""
        traces = []

        def model(design, y):
            traces.append(None)
            return regression(design, y)

        traced, plain = (AutoFlow(model, linear, init_loc_fn=init) for _ in range(2))
        svi = infer.SVI(model, traced, optax.adam(1e-2), infer.TraceMeanField_ELBO())
        update = jax.jit(svi.update)
        state, _ = update(jax.jit(svi.init)(KEY, *DATA), *DATA)
        before = len(traces)
        for shift in (0.0, 1.0):
            state, loss = update(state, DESIGN, Y + shift)
        assert len(traces) == before  # one compilation for all parameters
        assert jnp.isfinite(loss)
        params = perturbed(svi.get_params(state))
        draws = traced.sample_posterior(KEY, params, *DATA, sample_shape=(3,))
        again = plain.sample_posterior(KEY, params, *DATA, sample_shape=(3,))
        assert set(draws) == {"level", "a_slope", "mean"}
        for name, value in draws.items():
            np.testing.assert_allclose(value, again[name], rtol=1e-5, atol=1e-6)
        drawn, expected = (run(guide, params, *DATA) for guide in (traced, plain))
        for name in ("level", "a_slope"):
            np.testing.assert_allclose(
                drawn[name]["value"], expected[name]["value"], rtol=1e-5, atol=1e-6
            )
