"""The density of the amortized guide, its gradients, and the supports of its sites."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import infer
from numpyro.distributions import biject_to, constraints

import flowdists as fd
from tests.guides.amortized.models import (
    KEY,
    SMALL,
    bounded,
    bounded_data,
    built,
    drawn_params,
    gaussian_guide,
    hierarchical,
    linear_gaussian,
    linear_gaussian_data,
    losses,
    network,
    run,
    small_guide,
    start,
)
from tests.tolerances import AGREE_F32, FINITE_DIFFERENCE_F64, LOG_DET_F64, ROUND_TRIP_F64

STEPS = (1e-5, -1e-5)


@functools.cache
def bounded_guide():
    """A guide of sites with bounds, its parameters and data; in double precision."""
    guide = fd.AutoAmortizedFlow(
        bounded,
        network(2),
        plate="data",
        flow=built(fd.RealNVP, event_shape=(7,), context_shape=(6,), **SMALL),
        global_flow=built(fd.RealNVP, event_shape=(3,), **SMALL),
    )
    y = bounded_data()
    return guide, drawn_params(guide, y, 4), y


class TestDensity:
    """What a guide's sites add up to is the density of the draw, and nothing else."""

    def test_sites_sum_to_flows_minus_jacobians(self, x64):
        guide, params, y = bounded_guide()
        stick_breaking = biject_to(constraints.simplex)

        def log_det_simplex(u):
            return jnp.linalg.slogdet(jax.jacobian(stick_breaking)(u)[:-1])[1]

        @jax.jit
        def evaluate(params):
            values, total = run(guide, params, y, 4)
            # rate, weights; then, for each datum, scale at both times, mixture, loc
            rows, theta = values["data"], values["_auto_global_latent"]
            z = values["_auto_local_latent"].reshape(len(rows), 2 + 2 + 3)
            scaling = len(y) / len(rows)
            expected = (
                guide.global_posterior(params).log_prob(theta)
                - theta[0]
                - log_det_simplex(theta[1:])
                + scaling * guide.local_posterior(params, y[rows], theta).log_prob(z).sum()
                - scaling * z[:, :2].sum()
                - scaling * jax.vmap(log_det_simplex)(z[:, 2:4]).sum()
            )
            constrained = {
                "rate": jnp.exp(theta[0]),
                "weights": stick_breaking(theta[1:]),
                "scale": jnp.exp(z[:, :2]),
                "mixture": stick_breaking(z[:, None, 2:4]),
                "loc": z[:, None, 4:],
            }
            return values, total, expected, constrained

        values, total, expected, constrained = jax.tree.map(np.asarray, evaluate(params))
        np.testing.assert_allclose(total, expected, rtol=LOG_DET_F64)
        for name, value in constrained.items():
            assert values[name].shape == value.shape
            np.testing.assert_allclose(
                values[name], value, rtol=ROUND_TRIP_F64, atol=ROUND_TRIP_F64, err_msg=name
            )

    def test_elbos_agree(self):
        y = linear_gaussian_data(8)
        guide = gaussian_guide(hierarchical, context_size=2)
        params = drawn_params(guide, y, 4)
        elbos = (
            infer.Trace_ELBO(num_particles=2),
            infer.Trace_ELBO(num_particles=2, vectorize_particles=False),
            infer.TraceMeanField_ELBO(num_particles=2),
            infer.TraceGraph_ELBO(num_particles=2),
        )

        @jax.jit
        def evaluate(params):
            return [elbo.loss(KEY, params, hierarchical, guide, y, 4) for elbo in elbos]

        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            values = np.asarray(evaluate(params))
        # All of them split the key alike, so that the draws are the same.
        np.testing.assert_allclose(values[1:], values[0], rtol=10 * AGREE_F32)

    def test_the_importance_weighted_bound_is_tighter(self):
        x = linear_gaussian_data(8)
        guide = gaussian_guide(linear_gaussian)
        params = drawn_params(guide, x, 4)
        plain = losses(guide, params, x, 4, num_keys=300)
        weighted = losses(guide, params, x, 4, num_keys=300, loss=infer.RenyiELBO(num_particles=8))
        assert weighted.mean() < plain.mean()


def test_gradients_are_finite_differences(x64):
    guide, params, y = bounded_guide()
    directions = {
        name: np.random.default_rng(i).normal(size=leaf.shape)
        for i, (name, leaf) in enumerate(params.items())
    }

    # One parameter at a time moved ahead, then behind.
    moved = {
        name: np.stack(
            [leaf + (name == other) * step * directions[name] for step in STEPS for other in params]
        )
        for name, leaf in params.items()
    }

    @jax.jit
    def evaluate(params, moved):
        loss = lambda params: infer.Trace_ELBO().loss(KEY, params, bounded, guide, y, 4)
        return jax.grad(loss)(params), jax.vmap(loss)(moved)

    gradient, shifted = jax.tree.map(np.asarray, evaluate(params, moved))
    ahead, behind = np.split(shifted, 2)
    expected = dict(zip(params, (ahead - behind) / np.ptp(STEPS), strict=True))
    for name, direction in directions.items():
        if name.startswith("auto_encoder"):
            assert abs(expected[name]) > 1e-3, name
        np.testing.assert_allclose(
            (gradient[name] * direction).sum(),
            expected[name],
            rtol=FINITE_DIFFERENCE_F64,
            atol=FINITE_DIFFERENCE_F64,
            err_msg=name,
        )


def test_an_encoder_whose_output_starts_at_zero_learns():
    """Of one dimension, the local flow's only input is the context."""
    x = linear_gaussian_data(20)
    encoder = jax.jit(lambda key: fd.MLP(key, 1, 3, hidden_sizes=(4,), activation="tanh"))(KEY)
    guide = small_guide(linear_gaussian, encoder)
    svi, state, before = start(guide, x)
    update = jax.jit(svi.update)
    for _ in range(5):
        state, _ = update(state, x)
    after = svi.get_params(state)
    for name in (name for name in before if name.startswith("auto_encoder")):
        assert np.any(np.asarray(before[name]) != np.asarray(after[name])), name


class TestSupports:
    """Supports are those of the data at hand, and of the other draws."""

    @staticmethod
    def model(low, batch_size=None):
        width = numpyro.sample("width", dist.LogNormal(0.0, 1.0))
        with numpyro.plate("data", len(low), subsample_size=batch_size) as rows:
            numpyro.sample("x", dist.Uniform(low[rows], low[rows] + width))

    def test_draws_lie_between_the_bounds_of_their_datum(self, x64):
        guide = gaussian_guide(self.model, context_size=2)
        params = drawn_params(guide, jnp.asarray(np.arange(5.0)), 2)
        low = jnp.asarray(10.0 * np.arange(9))

        @jax.jit
        def evaluate(params):
            values, density = run(guide, params, low, 4)
            theta, z = values["_auto_global_latent"], values["_auto_local_latent"]
            local = guide.local_posterior(params, low[values["data"]], theta).log_prob(z)
            return values, density, local, guide.global_posterior(params).log_prob(theta)

        values, density, local, expected = jax.tree.map(np.asarray, evaluate(params))
        width = values["width"]
        above = values["x"] - np.asarray(low)[values["data"]]
        assert ((above >= 0) & (above <= width)).all()
        fraction = 1 / (1 + np.exp(-values["_auto_local_latent"][:, 0]))
        np.testing.assert_allclose(above, width * fraction, rtol=ROUND_TRIP_F64)
        local = local - np.log(width * fraction * (1 - fraction))
        expected = expected - values["_auto_global_latent"][0] + 9 / 4 * local.sum()
        np.testing.assert_allclose(density, expected, rtol=LOG_DET_F64)

    def test_they_may_depend_on_parameters_of_the_model(self):
        def model(y):
            width = numpyro.param("width", 2.0, constraint=constraints.positive)
            with numpyro.plate("data", len(y)):
                x = numpyro.sample("x", dist.Uniform(0.0, width))
                numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

        guide = gaussian_guide(model)
        y = jnp.asarray(np.linspace(0.0, 1.0, 5))
        _, _, params = start(guide, y)
        assert params["width"] == 2.0
        draws = guide.sample_posterior(KEY, params | {"width": 1e3}, y, sample_shape=(9,))
        assert np.max(draws["x"]) > 2.0
