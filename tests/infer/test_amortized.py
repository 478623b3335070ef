"""The amortized guide: exact posteriors, minibatches, densities, gradients, other data, misuse."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax.flatten_util import ravel_pytree
from numpyro import handlers, infer
from numpyro.distributions import biject_to, constraints

import flowdists as fd
from tests.tolerances import (
    AGREE_F32,
    FINITE_DIFFERENCE_F64,
    LOG_DET_F64,
    ROUND_TRIP_F64,
    STANDARD_ERRORS,
)

KEY = jax.random.key(0)
SMALL = {"num_layers": 1, "hidden_sizes": (8,), "activation": "tanh"}


def network(in_size=1, out_size=3):
    return fd.MLP(jax.random.key(5), in_size, out_size, hidden_sizes=(8,), activation="tanh")


def small_guide(model, encoder=None, **options):
    options = {"flow": fd.MAF, "global_flow": fd.MAF, **options}
    options = {"flow_options": SMALL, "global_options": SMALL, **options}
    return fd.AutoAmortizedFlow(model, network() if encoder is None else encoder, **options)


def start(guide, *args):
    """An SVI, its state and its parameters at the start."""
    svi = infer.SVI(guide.model, guide, optax.adam(1e-2), infer.Trace_ELBO())
    state = jax.jit(lambda key: svi.init(key, *args))(KEY)
    return svi, state, svi.get_params(state)


def run(guide, params, *args):
    """The values of the guide's sites, and the sum of their log-densities, as SVI scales them."""

    @jax.jit
    def values_and_density(params):
        seeded = handlers.seed(handlers.substitute(guide, params), KEY)
        trace = handlers.trace(seeded).get_trace(*args)
        values = {k: v["value"] for k, v in trace.items() if v["type"] in ("sample", "plate")}
        density = sum(
            (1.0 if site["scale"] is None else site["scale"])
            * site["fn"].log_prob(site["value"]).sum()
            for site in trace.values()
            if site["type"] == "sample"
        )
        return values, density

    return values_and_density(params)


def perturb(params, scale=0.3):
    vector, unravel = ravel_pytree(params)
    return unravel(vector + scale * jax.random.normal(jax.random.key(6), vector.shape))


def losses(guide, params, *args, num_keys, loss=None):
    loss = loss or infer.Trace_ELBO()
    keys = jax.random.split(jax.random.key(7), num_keys)
    evaluate = jax.vmap(lambda key: loss.loss(key, params, guide.model, guide, *args))
    return np.asarray(jax.jit(evaluate)(keys), np.float64)


def standard_error(values):
    return values.std() / len(values) ** 0.5


SLOPE, NOISE = 2.0, 0.8


def linear_gaussian(x, batch_size=None):
    """z given x is normal, and so is x."""
    with numpyro.plate("data", len(x), subsample_size=batch_size) as rows:
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(SLOPE * z, NOISE), obs=x[rows])


def linear_gaussian_data(size=200):
    return (SLOPE**2 + NOISE**2) ** 0.5 * jax.random.normal(jax.random.key(1), (size,))


PRIOR_SCALE, GROUP_SCALE, ERROR_SCALE = 5.0, 0.5, 1.0


def hierarchical(y, batch_size=None):
    """A mean, a deviation from it for each group, one observation of each: all of it normal."""
    mean = numpyro.sample("mean", dist.Normal(0.0, PRIOR_SCALE))
    with numpyro.plate("groups", len(y), subsample_size=batch_size) as rows:
        effect = numpyro.sample("effect", dist.Normal(mean, GROUP_SCALE))
        numpyro.sample("y", dist.Normal(effect, ERROR_SCALE), obs=y[rows])


def hierarchical_posterior(y):
    """Mean and covariance of (mean, effects), and the log-evidence."""
    y = np.asarray(y, np.float64)
    size = len(y)
    prior = np.full((1 + size, 1 + size), PRIOR_SCALE**2)
    prior[1:, 1:] += GROUP_SCALE**2 * np.eye(size)
    design = np.eye(1 + size)[1:]
    marginal = design @ prior @ design.T + ERROR_SCALE**2 * np.eye(size)
    gain = prior @ design.T @ np.linalg.inv(marginal)
    _, log_det = np.linalg.slogdet(2 * np.pi * marginal)
    evidence = -0.5 * (y @ np.linalg.solve(marginal, y) + log_det)
    return gain @ y, prior - gain @ design @ prior, evidence


def bounded(y, batch_size=None):
    """Positive and simplex-valued sites, globally and for each datum, over a second plate."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    times = numpyro.plate("times", 2, dim=-1)
    with numpyro.plate("data", len(y), subsample_size=batch_size, dim=-2) as rows:
        with times:
            scale = numpyro.sample("scale", dist.Gamma(2.0, rate))
        mixture = numpyro.sample("mixture", dist.Dirichlet(1.0 + weights))
        loc = numpyro.sample("loc", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        with times:
            mean = (mixture * loc).sum(-1)
            numpyro.sample("y", dist.Normal(mean, scale), obs=y[rows])


def bounded_data(size=6):
    return jax.random.normal(jax.random.key(2), (size, 2))


class TestLinearGaussian:
    @pytest.mark.heavy
    def test_every_datum_has_its_exact_posterior(self):
        x = linear_gaussian_data()
        guide = small_guide(linear_gaussian)
        params, _ = fd.fit_guide(
            KEY, guide, x, 50, num_steps=3000, learning_rate=2e-2, progress=False
        )
        variance = NOISE**2 / (SLOPE**2 + NOISE**2)
        draws = np.asarray(
            guide.sample_posterior(KEY, params, x, sample_shape=(4000,))["z"], np.float64
        )
        # A few per cent of the posterior's scale, but for the least and greatest of the data.
        inner = np.abs(x) < 2 * (SLOPE**2 + NOISE**2) ** 0.5
        errors = (draws.mean(0) - variance * SLOPE / NOISE**2 * np.asarray(x)) / variance**0.5
        assert np.abs(errors)[inner].max() < 0.15
        assert (errors[inner] ** 2).mean() ** 0.5 < 0.05
        np.testing.assert_allclose(draws.std(0)[inner].mean(), variance**0.5, rtol=0.03)

        bounds = -losses(guide, params, x, num_keys=200)
        evidence = dist.Normal(0.0, (SLOPE**2 + NOISE**2) ** 0.5).log_prob(x).sum()
        assert -0.05 < (bounds.mean() - float(evidence)) / len(x) < 0.001

        # To data that it has not seen, the guide is just as good.
        new = linear_gaussian_data(50) / 2
        flow = guide.local_posterior(params, new)
        exact = dist.Normal(variance * SLOPE / NOISE**2 * new, variance**0.5)
        z = exact.sample(KEY, (1000,))
        divergence = (exact.log_prob(z) - flow.log_prob(z[..., None])).mean(0)
        assert divergence.shape == (50,)
        assert float(jnp.abs(divergence).max()) < 0.05

    def test_minibatches_estimate_the_loss_of_all_data(self):
        x = linear_gaussian_data(30)
        guide = small_guide(linear_gaussian)
        params = perturb(start(guide, x)[2])
        whole = losses(guide, params, x, num_keys=4000)
        parts = losses(guide, params, x, 6, num_keys=4000)
        error = np.hypot(standard_error(whole), standard_error(parts))
        assert abs(whole.mean() - parts.mean()) < STANDARD_ERRORS * error
        assert error < 0.02 * abs(whole.mean())

    def test_minibatches_may_be_the_model_s_argument(self):
        def model(batch, size):
            with numpyro.plate("data", size, subsample_size=len(batch)):
                z = numpyro.sample("z", dist.Normal(0.0, 1.0))
                numpyro.sample("x", dist.Normal(SLOPE * z, NOISE), obs=batch)

        x = linear_gaussian_data(30)
        guide = small_guide(model)
        _, _, params = start(guide, x[:10], 30)
        params = perturb(params)
        subsampling = small_guide(linear_gaussian)
        start(subsampling, x)
        rows = jnp.arange(10, 20)
        with handlers.substitute(data={"data": rows}):
            expected = infer.Trace_ELBO().loss(KEY, params, linear_gaussian, subsampling, x, 10)
        actual = infer.Trace_ELBO().loss(KEY, params, model, guide, x[rows], 30)
        np.testing.assert_allclose(actual, expected, rtol=AGREE_F32)
        draws = guide.sample_posterior(KEY, params, x[:10], 30, sample_shape=(2,))
        assert draws["z"].shape == (2, 10)


class TestHierarchical:
    Y = jnp.array([1.0, 3.0, 2.5, -0.5, 2.0, 4.0, 0.5, 1.5])

    def fit(self, **options):
        guide = small_guide(hierarchical, **options)
        return guide, fd.fit_guide(
            KEY, guide, self.Y, num_steps=3000, learning_rate=2e-2, progress=False
        ).params

    @pytest.mark.heavy
    def test_posterior_and_evidence_are_the_closed_forms(self):
        guide, params = self.fit()
        mean, covariance, evidence = hierarchical_posterior(self.Y)
        bounds = -losses(guide, params, self.Y, num_keys=2000)
        assert abs(bounds.mean() - evidence) < 0.05
        draws = guide.sample_posterior(KEY, params, self.Y, sample_shape=(10_000,))
        table = np.column_stack([draws["mean"], draws["effect"]]).astype(np.float64)
        deviation = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose((table.mean(0) - mean) / deviation, 0, atol=0.1)
        np.testing.assert_allclose(table.std(0), deviation, rtol=0.07)
        correlation = covariance / deviation / deviation[:, None]
        np.testing.assert_allclose(np.corrcoef(table.T), correlation, atol=0.1)

    @pytest.mark.heavy
    def test_without_the_mean_in_its_context_the_local_flow_is_too_narrow(self):
        guide, params = self.fit(condition_on_global=False)
        _, covariance, evidence = hierarchical_posterior(self.Y)
        bounds = -losses(guide, params, self.Y, num_keys=2000)
        # What the best approximation by independent blocks loses, if local ones are exact.
        precision = np.linalg.inv(covariance)
        blocks = np.log(precision[0, 0]) + np.linalg.slogdet(precision[1:, 1:])[1]
        gap = 0.5 * (blocks - np.linalg.slogdet(precision)[1])
        assert gap > 0.5
        assert abs(evidence - bounds.mean() - gap) < 0.1


class TestDensity:
    """What a guide's sites add up to is the density of the draw, and nothing else."""

    def test_sites_sum_to_flows_minus_jacobians(self, x64):
        y = bounded_data()
        guide = small_guide(bounded, network(2), plate="data")
        params = perturb(start(guide, y, 4)[2])
        values, total = run(guide, params, y, 4)

        # rate, weights; then, for each datum, scale at both times, mixture, loc
        rows, theta = values["data"], values["_auto_global_latent"]
        z = values["_auto_local_latent"].reshape(len(rows), 2 + 2 + 3)
        stick_breaking = biject_to(constraints.simplex)

        def log_det_simplex(u):
            return jnp.linalg.slogdet(jax.jacobian(stick_breaking)(u)[:-1])[1]

        @jax.jit
        def expected(params, theta, z):
            scaling = len(y) / len(rows)
            return (
                guide.global_posterior(params).log_prob(theta)
                - theta[0]
                - log_det_simplex(theta[1:])
                + scaling * guide.local_posterior(params, y[rows], theta).log_prob(z).sum()
                - scaling * z[:, :2].sum()
                - scaling * jax.vmap(log_det_simplex)(z[:, 2:4]).sum()
            )

        np.testing.assert_allclose(total, expected(params, theta, z), rtol=LOG_DET_F64)
        exact = {"rtol": ROUND_TRIP_F64, "atol": ROUND_TRIP_F64}
        np.testing.assert_allclose(values["rate"], jnp.exp(theta[0]), **exact)
        np.testing.assert_allclose(values["weights"], stick_breaking(theta[1:]), **exact)
        np.testing.assert_allclose(values["scale"], jnp.exp(z[:, :2]), **exact)
        mixture = values["mixture"]
        assert mixture.shape == (len(rows), 1, 3)
        np.testing.assert_allclose(mixture[:, 0], stick_breaking(z[:, 2:4]), **exact)
        np.testing.assert_allclose(values["loc"][:, 0], z[:, 4:], **exact)

    @pytest.mark.heavy
    def test_elbos_agree(self):
        y = linear_gaussian_data(8)
        guide = small_guide(hierarchical)
        params = perturb(start(guide, y, 4)[2])
        reference = losses(guide, params, y, 4, num_keys=900)
        for loss in (
            infer.Trace_ELBO(num_particles=3),
            infer.Trace_ELBO(num_particles=3, vectorize_particles=False),
            infer.TraceMeanField_ELBO(num_particles=3),
            infer.TraceGraph_ELBO(num_particles=3),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                values = losses(guide, params, y, 4, num_keys=300, loss=loss)
            error = np.hypot(standard_error(values), standard_error(reference))
            assert abs(values.mean() - reference.mean()) < STANDARD_ERRORS * error

    @pytest.mark.heavy
    def test_the_importance_weighted_bound_is_tighter(self):
        x = linear_gaussian_data(8)
        guide = small_guide(linear_gaussian)
        params = perturb(start(guide, x, 4)[2], 0.1)
        plain = losses(guide, params, x, 4, num_keys=300)
        weighted = losses(guide, params, x, 4, num_keys=300, loss=infer.RenyiELBO(num_particles=8))
        assert weighted.mean() < plain.mean()


@pytest.mark.heavy
def test_gradients_are_finite_differences(x64):
    y = bounded_data()
    guide = small_guide(bounded, network(2), plate="data", flow=fd.RealNVP, global_flow=fd.RealNVP)
    params = perturb(start(guide, y, 4)[2])

    @jax.jit
    def loss(params):
        return infer.Trace_ELBO(num_particles=2).loss(KEY, params, bounded, guide, y, 4)

    gradient = jax.jit(jax.grad(loss))(params)
    for i, (name, leaf) in enumerate(params.items()):
        direction = jax.random.normal(jax.random.key(i), leaf.shape)
        ahead, behind = (loss(params | {name: leaf + step * direction}) for step in (1e-5, -1e-5))
        expected = (ahead - behind) / 2e-5
        if name.startswith("auto_encoder"):
            assert abs(expected) > 1e-3, name
        np.testing.assert_allclose(
            (gradient[name] * direction).sum(),
            expected,
            rtol=FINITE_DIFFERENCE_F64,
            atol=FINITE_DIFFERENCE_F64,
            err_msg=name,
        )


def test_an_encoder_whose_output_starts_at_zero_learns():
    """Of one dimension, the local flow's only input is the context."""
    x = linear_gaussian_data(20)
    guide = small_guide(linear_gaussian)
    svi, state, before = start(guide, x)
    update = jax.jit(svi.update)
    for _ in range(5):
        state, _ = update(state, x)
    after = svi.get_params(state)
    for name in (name for name in before if name.startswith("auto_encoder")):
        assert (before[name] != after[name]).any(), name


class TestSupports:
    """Supports are those of the data at hand, and of the other draws."""

    @staticmethod
    def model(low, batch_size=None):
        width = numpyro.sample("width", dist.LogNormal(0.0, 1.0))
        with numpyro.plate("data", len(low), subsample_size=batch_size) as rows:
            numpyro.sample("x", dist.Uniform(low[rows], low[rows] + width))

    def test_draws_lie_between_the_bounds_of_their_datum(self, x64):
        guide = small_guide(self.model)
        params = perturb(start(guide, jnp.arange(5.0), 2)[2])
        low = 10.0 * jnp.arange(9)
        values, density = run(guide, params, low, 4)
        rows, width = values["data"], values["width"]
        above = values["x"] - low[rows]
        assert ((above >= 0) & (above <= width)).all()
        theta, z = values["_auto_global_latent"], values["_auto_local_latent"]
        fraction = jax.nn.sigmoid(z[:, 0])
        np.testing.assert_allclose(above, width * fraction, rtol=ROUND_TRIP_F64)
        local = guide.local_posterior(params, low[rows], theta).log_prob(z)
        local -= jnp.log(width * fraction * (1 - fraction))
        expected = guide.global_posterior(params).log_prob(theta) - theta[0]
        expected += 9 / 4 * local.sum()
        np.testing.assert_allclose(density, expected, rtol=LOG_DET_F64)

    def test_they_may_depend_on_parameters_of_the_model(self):
        def model(y):
            width = numpyro.param("width", 2.0, constraint=constraints.positive)
            with numpyro.plate("data", len(y)):
                x = numpyro.sample("x", dist.Uniform(0.0, width))
                numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

        guide = small_guide(model)
        y = jnp.linspace(0.0, 1.0, 5)
        _, _, params = start(guide, y)
        assert params["width"] == 2.0
        draws = guide.sample_posterior(KEY, params | {"width": 1e3}, y, sample_shape=(9,))
        assert draws["x"].max() > 2.0


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
        guide = small_guide(TestMisuse.two_plates)
        _, _, params = start(guide, jnp.ones(6), 3)
        assert guide.global_posterior(params).event_shape == (4,)
        assert guide.local_posterior(params, jnp.ones(6)[:2], jnp.ones(4)).batch_shape == (2,)


class TestMisuse:
    X = jnp.ones(6)

    @staticmethod
    def two_plates(x, batch_size=None, other_size=None):
        with numpyro.plate("others", 4, subsample_size=other_size):
            numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", len(x), subsample_size=batch_size):
            numpyro.sample("b", dist.Normal(0.0, 1.0))

    @staticmethod
    def no_local(x):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    @staticmethod
    def discrete(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("k", dist.Bernoulli(0.5))

    @pytest.mark.parametrize(
        "model, args, options, message",
        [
            (no_local, (), {}, "there must be local latent sites"),
            (no_local, (), {"plate": "data"}, "inside of the plate 'data'"),
            (linear_gaussian, (), {"plate": "rows"}, r"one of the model's plates, \['data'\]"),
            (discrete, (), {}, "'k' is discrete"),
            (two_plates, (), {}, r"several plates have latent sites, \['data', 'others'\]"),
            (two_plates, (3, 2), {}, "several plates have latent sites"),
            (two_plates, (3, 2), {"plate": "data"}, "'a' is inside of 'others', which is sub"),
            (linear_gaussian, (2,), {"features": lambda x, b: x[:3]}, "a row for each datum"),
            (linear_gaussian, (), {"features": lambda x: 1.0}, "a row for each datum"),
            (linear_gaussian, (), {"encoder": network(2)}, "`encoder` must map a row of shape"),
            (
                linear_gaussian,
                (),
                {"encoder": network(), "features": lambda x: jnp.ones((6, 2, 1))},
                r"a row of shape \(2, 1\) to a vector of floats, got float32\[2, 3\]",
            ),
            (
                linear_gaussian,
                (),
                {"flow": fd.MAF(KEY, (2,), context_shape=(3,), **SMALL), "flow_options": None},
                r"`flow` must have event_shape \(1,\), got \(2,\)",
            ),
            (
                hierarchical,
                (),
                {"flow": fd.MAF(KEY, (1,), context_shape=(3,), **SMALL), "flow_options": None},
                r"`flow` must have context_shape \(4,\), got \(3,\)",
            ),
            (
                hierarchical,
                (),
                {"global_flow": fd.MAF(KEY, (2,), **SMALL), "global_options": None},
                r"`global_flow` must have event_shape \(1,\), got \(2,\)",
            ),
        ],
    )
    def test_when_it_runs(self, model, args, options, message):
        model = getattr(model, "__func__", model)
        with pytest.raises(ValueError, match=message):
            start(small_guide(model, **options), self.X, *args)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"encoder": 3}, "`encoder` must be a callable pytree"),
            ({"features": jnp.ones(3)}, "`features` must be a function"),
            ({"flow": fd.MAF(KEY, (2,), **SMALL)}, "returns a ConditionalFlow, or a Conditional"),
            ({"global_flow": 3}, "`global_flow` must be a recipe"),
            ({"flow": fd.MAF(KEY, (1,), context_shape=(3,))}, "is built already"),
        ],
    )
    def test_kinds(self, options, message):
        with pytest.raises(TypeError, match=message):
            small_guide(linear_gaussian, **options)

    def test_a_recipe_of_another_kind(self):
        guide = small_guide(linear_gaussian, flow=lambda key, shape, **_: fd.MAF(key, shape))
        with pytest.raises(TypeError, match="must give a ConditionalFlow, got Flow"):
            start(guide, self.X)

    def test_nothing_to_see(self):
        guide = small_guide(lambda *, x: linear_gaussian(x))
        with pytest.raises(TypeError, match="first positional argument"):
            guide.sample_posterior(KEY, {}, x=self.X)

    def test_a_network_without_parameters(self):
        class Nothing(eqx.Module):
            def __call__(self, row):
                return row

        with pytest.raises(TypeError, match="floating-point arrays to train"):
            start(small_guide(linear_gaussian, Nothing()), self.X)

    def test_init_scale(self):
        with pytest.raises(ValueError, match="`init_scale` must be positive"):
            small_guide(linear_gaussian, init_scale=0.0)

    def test_before_its_first_run(self):
        guide = small_guide(linear_gaussian)
        for ask in (lambda: guide.local_posterior({}, self.X), lambda: guide.global_posterior({})):
            with pytest.raises(ValueError, match="has not seen its model yet"):
                ask()

    def test_globals_that_are_not_there(self):
        guide = small_guide(linear_gaussian)
        _, _, params = start(guide, self.X)
        with pytest.raises(ValueError, match="no global latent variables"):
            guide.global_posterior(params)
        with pytest.raises(ValueError, match="does not see it"):
            guide.local_posterior(params, self.X, jnp.zeros(1))

    def test_globals_that_are_missing(self):
        guide = small_guide(hierarchical)
        _, _, params = start(guide, self.X)
        with pytest.raises(ValueError, match=r"given, of shape \(\*batch, 1\)"):
            guide.local_posterior(params, self.X)

    def test_a_model_whose_latent_variables_change(self):
        def model(x, size):
            with numpyro.plate("data", len(x)):
                numpyro.sample("z", dist.Normal(jnp.zeros(size), 1.0).to_event(1))

        guide = small_guide(model)
        svi, state, _ = start(guide, self.X, 2)
        with pytest.raises(ValueError, match="only the size of the data's plate may change"):
            svi.update(state, self.X, 3)
