"""The density of the amortized guide, its gradients, and the supports of its sites."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import infer
from numpyro.distributions import biject_to, constraints

import flowdists as fd
from tests.infer.amortized.models import (
    KEY,
    bounded,
    bounded_data,
    hierarchical,
    linear_gaussian,
    linear_gaussian_data,
    losses,
    network,
    perturb,
    run,
    small_guide,
    standard_error,
    start,
)
from tests.tolerances import FINITE_DIFFERENCE_F64, LOG_DET_F64, ROUND_TRIP_F64, STANDARD_ERRORS


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
