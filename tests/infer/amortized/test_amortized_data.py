"""The amortized guide on data that it was not trained on, and images."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers, infer

import flowdists as fd
from tests.infer.amortized.models import (
    KEY,
    hierarchical,
    linear_gaussian,
    linear_gaussian_data,
    network,
    perturb,
    small_guide,
    start,
)
from tests.tolerances import AGREE_F32, STANDARD_ERRORS


class TestOtherData:
    def test_size_and_batch_size_may_change(self):
        guide = small_guide(hierarchical)
        svi, state, params = start(guide, linear_gaussian_data(12), 4)
        for size, batch_size in [(12, 6), (7, None)]:
            data = linear_gaussian_data(size)
            update = jax.jit(svi.update, static_argnums=2)
            assert jnp.isfinite(update(state, data, batch_size)[1])
            draws = guide.sample_posterior(KEY, params, data, batch_size, sample_shape=(3,))
            assert {k: v.shape for k, v in draws.items()} == {"mean": (3,), "effect": (3, size)}

    def test_a_datum_s_posterior_does_not_depend_on_the_others(self):
        guide = small_guide(linear_gaussian)
        x = linear_gaussian_data(12)
        params = perturb(start(guide, x)[2])
        z = jax.random.normal(KEY, (12, 1))
        together = guide.local_posterior(params, x).log_prob(z)
        alone = [guide.local_posterior(params, x[i : i + 1]).log_prob(z[i]) for i in range(12)]
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=10 * AGREE_F32)

    def test_a_subset_of_the_data_may_be_asked_for(self):
        guide = small_guide(linear_gaussian)
        x = linear_gaussian_data(12)
        params = perturb(start(guide, x, 3)[2])
        with handlers.substitute(data={"data": jnp.array([7, 2])}):
            draws = guide.sample_posterior(KEY, params, x, 3, sample_shape=(4000,))["z"]
        flow = guide.local_posterior(params, x[jnp.array([7, 2])])
        direct = flow.sample(jax.random.key(1), (4000,))[..., 0]
        error = np.hypot(*(np.std(values, axis=0) / 4000**0.5 for values in (draws, direct)))
        assert draws.shape == (4000, 2)
        assert (np.abs(draws.mean(0) - direct.mean(0)) < STANDARD_ERRORS * error).all()

    @pytest.mark.parametrize("rows_at_once", [1, 40])
    def test_draws_in_batches_are_the_same(self, rows_at_once, monkeypatch):
        guide = small_guide(hierarchical)
        x = linear_gaussian_data(12)
        params = perturb(start(guide, x)[2])
        whole = guide.sample_posterior(KEY, params, x, sample_shape=(2, 5))
        monkeypatch.setattr("flowdists.infer.amortized._ROWS_AT_ONCE", rows_at_once)
        batched = guide.sample_posterior(KEY, params, x, sample_shape=(2, 5))
        for name in whole:
            np.testing.assert_allclose(batched[name], whole[name], rtol=1e-5, atol=1e-6)
        assert guide.sample_posterior(KEY, params, x, sample_shape=(0,))["effect"].shape == (0, 12)

    def test_missing_observations_are_not_latent(self):
        def model(x, y=None):
            with numpyro.plate("data", len(x)):
                z = numpyro.sample("z", dist.Normal(x, 1.0))
                numpyro.sample("y", dist.Bernoulli(logits=z), obs=y)

        guide = small_guide(model)
        x = linear_gaussian_data(6)
        _, _, params = start(guide, x, jnp.ones(6))
        predictive = infer.Predictive(model, guide=guide, params=params, num_samples=3)
        assert predictive(KEY, x)["y"].shape == (3, 6)

    def test_parameters_loaded_elsewhere(self):
        x = linear_gaussian_data(12)
        guide = small_guide(hierarchical)
        params = perturb(start(guide, x)[2])
        expected = guide.sample_posterior(KEY, params, x, sample_shape=(5,))
        actual = small_guide(hierarchical).sample_posterior(KEY, params, x, sample_shape=(5,))
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name])

    def test_one_compilation(self):
        calls = []

        def features(x, batch_size):
            calls.append(len(x))
            return x

        guide = small_guide(linear_gaussian, features=features)
        svi, state, _ = start(guide, linear_gaussian_data(12), 4)
        update = jax.jit(lambda state, x: svi.update(state, x, 4))
        state, _ = update(state, linear_gaussian_data(12))
        calls.clear()
        for i in range(3):
            state, loss = update(state, i + linear_gaussian_data(12))
        assert calls == []
        assert jnp.isfinite(loss)


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
        images = jnp.asarray(jax.random.bernoulli(KEY, 0.3, (20, 4, 4)), float)
        guide = small_guide(
            self.model,
            lambda key: fd.MLP(key, 16, 5, hidden_sizes=(8,)),
            features=lambda images, batch_size=None: images.reshape(len(images), -1),
            flow=fd.RealNVP,
            flow_options={"num_layers": 2, "hidden_sizes": (8,)},
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
        assert (after["decoder.output_layer.bias"] != before["decoder.output_layer.bias"]).any()
        draws = guide.sample_posterior(KEY, after, images, 5, sample_shape=(2, 3))
        assert draws["z"].shape == (2, 3, 20, 2)
        assert draws["brightness"].shape == (2, 3, 20)
        predictive = infer.Predictive(self.model, guide=guide, params=after, num_samples=4)
        assert predictive(KEY, images)["image"].shape == (4, 20, 4, 4)

    def test_the_decoder_starts_where_the_key_of_svi_says(self):
        images = jnp.zeros((20, 4, 4))

        def initial(key):
            guide = small_guide(self.model, network(16), features=lambda x: x.reshape(len(x), -1))
            svi = infer.SVI(self.model, guide, optax.adam(1e-2), infer.Trace_ELBO())
            params = svi.get_params(jax.jit(lambda key: svi.init(key, images))(key))
            return params["decoder.input_layer.weight"]

        assert (initial(jax.random.key(1)) != initial(jax.random.key(2))).all()
