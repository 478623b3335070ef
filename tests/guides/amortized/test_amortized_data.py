"""The amortized guide on data that it was not trained on, and images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers, infer

import flowdists as fd
from tests.draws import normal
from tests.guides.amortized.models import (
    KEY,
    NOISE,
    SLOPE,
    SMALL,
    built,
    drawn_params,
    exact_linear_gaussian,
    gaussian_guide,
    hierarchical,
    linear_gaussian,
    linear_gaussian_data,
    network,
    small_guide,
    start,
)
from tests.tolerances import AGREE_F32, STANDARD_ERRORS


def guide_of_groups():
    return gaussian_guide(hierarchical, context_size=2)


@functools.cache
def draws_of_groups():
    """A guide, its parameters and data, and draws from it, at the usual number at once."""
    guide, x = guide_of_groups(), linear_gaussian_data(12)
    params = drawn_params(guide, x)
    return guide, params, x, guide.sample_posterior(KEY, params, x, sample_shape=(2, 5))


class TestOtherData:
    @pytest.mark.parametrize(("size", "batch_size"), [(12, 6), (7, None)])
    def test_size_and_batch_size_may_change(self, size, batch_size):
        guide = guide_of_groups()
        params = drawn_params(guide, linear_gaussian_data(12), 4)
        data = linear_gaussian_data(size)

        @jax.jit
        def evaluate(params):
            draws = guide.sample_posterior(KEY, params, data, batch_size, sample_shape=(3,))
            return infer.Trace_ELBO().loss(KEY, params, guide.model, guide, data, batch_size), draws

        loss, draws = evaluate(params)
        assert np.isfinite(loss)
        assert {k: v.shape for k, v in draws.items()} == {"mean": (3,), "effect": (3, size)}

    def test_a_datum_s_posterior_does_not_depend_on_the_others(self):
        guide = gaussian_guide(linear_gaussian, network(), context_size=3)
        x = linear_gaussian_data(12)
        params = drawn_params(guide, x)
        z = normal(3, (12, 1))

        @jax.jit
        def evaluate(params):
            density = lambda x, z: guide.local_posterior(params, x).log_prob(z)
            return density(x, z), jnp.stack([density(x[i : i + 1], z[i])[0] for i in range(3)])

        together, alone = evaluate(params)
        np.testing.assert_allclose(together[:3], alone, rtol=10 * AGREE_F32)

    def test_a_subset_of_the_data_may_be_asked_for(self):
        x = linear_gaussian_data(12)
        guide, params = exact_linear_gaussian(x)
        rows = np.array([7, 2])
        with handlers.substitute(data={"data": jnp.asarray(rows)}):
            draws = guide.sample_posterior(KEY, params, x, 3, sample_shape=(4000,))["z"]
        assert draws.shape == (4000, 2)
        spread = SLOPE**2 + NOISE**2
        expected = SLOPE / spread * np.asarray(x)[rows]
        error = STANDARD_ERRORS * NOISE / spread**0.5 / 4000**0.5
        np.testing.assert_allclose(np.mean(draws, axis=0), expected, atol=error)

    @pytest.mark.parametrize("rows_at_once", [1, 40])
    def test_draws_in_batches_are_the_same(self, rows_at_once, monkeypatch):
        guide, params, x, whole = draws_of_groups()
        monkeypatch.setattr("flowdists.guides.amortized._ROWS_AT_ONCE", rows_at_once)
        batched = guide.sample_posterior(KEY, params, x, sample_shape=(2, 5))
        for name in whole:
            np.testing.assert_allclose(batched[name], whole[name], rtol=1e-5, atol=1e-6)

    def test_no_draws(self):
        guide, params, x, _ = draws_of_groups()
        assert guide.sample_posterior(KEY, params, x, sample_shape=(0,))["effect"].shape == (0, 12)

    def test_missing_observations_are_not_latent(self):
        def model(x, y=None):
            with numpyro.plate("data", len(x)):
                z = numpyro.sample("z", dist.Normal(x, 1.0))
                numpyro.sample("y", dist.Bernoulli(logits=z), obs=y)

        guide = gaussian_guide(model)
        x = linear_gaussian_data(6)
        params = drawn_params(guide, x, jnp.ones(6))
        predictive = infer.Predictive(model, guide=guide, params=params, num_samples=3)
        assert jax.eval_shape(predictive, KEY, x)["y"].shape == (3, 6)

    def test_parameters_loaded_elsewhere(self):
        _, params, x, expected = draws_of_groups()
        actual = guide_of_groups().sample_posterior(KEY, params, x, sample_shape=(2, 5))
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name])

    def test_one_compilation(self):
        calls = []

        def features(x, batch_size):
            calls.append(len(x))
            return x

        guide = gaussian_guide(linear_gaussian, features=features)
        x = linear_gaussian_data(12)
        svi, state, _ = start(guide, x, 4)
        update = jax.jit(lambda state, x: svi.update(state, x, 4))
        state, _ = update(state, x)
        assert calls
        calls.clear()
        for i in range(3):
            state, loss = update(state, i + x)
        assert calls == []
        assert np.isfinite(loss)


class TestAutoencoder:
    """A decoder among the model's parameters, a vector for each image."""

    @staticmethod
    def model(images, batch_size=None):
        decoder = fd.flow_module(
            "decoder", lambda key: fd.MLP(key, 2, 16, hidden_sizes=(8,), activation="tanh")
        )
        with numpyro.plate("data", len(images), subsample_size=batch_size) as rows:
            z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
            numpyro.deterministic("brightness", decoder(z).sum(-1))
            logits = decoder(z).reshape(-1, 4, 4)
            numpyro.sample("image", dist.Bernoulli(logits=logits).to_event(2), obs=images[rows])

    def test_shapes_and_parameters(self):
        images = jnp.asarray(np.random.default_rng(0).random((6, 4, 4)) < 0.3, float)
        guide = small_guide(
            self.model,
            lambda key: fd.MLP(key, 16, 5, hidden_sizes=(8,)),
            features=lambda images, batch_size=None: images.reshape(len(images), -1),
            flow=fd.RealNVP,
        )
        svi, state, before = start(guide, images, 5)
        prefixes = {name.split(".")[0] for name in before}
        assert prefixes == {
            "decoder",
            "auto_encoder",
            "auto_local_flow",
            "auto_local_units",
            "auto_local_affine",
        }
        state, _ = jax.jit(lambda s: svi.update(s, images, 5))(state)
        after = svi.get_params(state)
        bias = "decoder.output_layer.bias"
        assert np.any(np.asarray(after[bias]) != np.asarray(before[bias]))

        def draw(key):
            return guide.sample_posterior(key, after, images, 5, sample_shape=(2, 3))

        draws = jax.eval_shape(draw, KEY)
        assert draws["z"].shape == (2, 3, 6, 2)
        assert draws["brightness"].shape == (2, 3, 6)
        predictive = infer.Predictive(self.model, guide=guide, params=after, num_samples=4)
        assert jax.eval_shape(predictive, KEY, images)["image"].shape == (4, 6, 4, 4)

    def test_the_decoder_starts_where_the_key_of_svi_says(self):
        images = jnp.zeros((6, 4, 4))
        guide = gaussian_guide(
            self.model,
            network(16),
            features=lambda x: x.reshape(len(x), -1),
            flow=built(fd.MAF, event_shape=(2,), context_shape=(3,), **SMALL),
        )
        svi = infer.SVI(self.model, guide, optax.adam(1e-2), infer.Trace_ELBO())
        init = jax.jit(lambda key: svi.get_params(svi.init(key, images)))
        first, second = (
            np.asarray(init(jax.random.key(seed))["decoder.input_layer.weight"]) for seed in (1, 2)
        )
        assert (first != second).all()
