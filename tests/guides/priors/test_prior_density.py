"""Flows with bounds as priors: what samplers and guides see of them in unbounded space."""

import functools

import jax
import numpy as np
import pytest
from numpyro import infer
from numpyro.distributions import biject_to
from scipy import stats

from tests.guides.priors.flows import (
    BOUNDED,
    IMAGES_OF_THE_BASE,
    KEY,
    bounded,
    prior,
)
from tests.tolerances import FINITE_DIFFERENCE_F64, LOG_DET_F64

EXACT = {"rtol": LOG_DET_F64, "atol": LOG_DET_F64}


@functools.cache
def unbounded(name):
    """NumPyro's map from unbounded space for a flow, and the density there, at a few points."""
    points = np.random.default_rng(4).uniform(-2.0, 2.0, (5, 2))
    shifts = 1e-5 * np.concatenate([np.eye(2), -np.eye(2)])

    def evaluate(flow):
        transform = biject_to(flow.support)
        potential = lambda u: infer.util.potential_energy(prior, (flow,), {}, {"z": u})
        drawn = flow.sample(jax.random.key(1))
        values = jax.vmap(transform)(points)
        return {
            "drawn": drawn,
            "drawn again": transform(transform.inv(drawn)),
            "log_det": jax.vmap(transform.log_abs_det_jacobian)(points, values),
            # The last coordinate of a point of the simplex is a function of the others.
            "jacobian": jax.vmap(jax.jacobian(lambda u: transform(u)[:2]))(points),
            "log_prob": flow.log_prob(values),
            "potential": jax.vmap(potential)(points),
            "gradient": jax.vmap(jax.grad(potential))(points),
            "shifted": jax.vmap(jax.vmap(potential))(points[:, None] + shifts),
        }

    found = jax.tree.map(np.asarray, jax.jit(evaluate)(BOUNDED[name]()))
    ahead, behind = np.split(found["shifted"], 2, axis=1)
    return found | {"points": points, "differences": (ahead - behind) / 2e-5}


class TestUnbounded:
    """What samplers and guides see of a flow with bounds."""

    @bounded
    def test_the_map_has_the_log_det_of_its_jacobian(self, x64, name):
        found = unbounded(name)
        np.testing.assert_allclose(found["drawn again"], found["drawn"], **EXACT)
        expected = np.linalg.slogdet(found["jacobian"])[1]
        np.testing.assert_allclose(found["log_det"], expected, **EXACT)

    @bounded
    def test_the_density_is_the_flow_s_times_the_jacobian(self, x64, name):
        found = unbounded(name)
        expected = -found["log_prob"] - np.linalg.slogdet(found["jacobian"])[1]
        np.testing.assert_allclose(found["potential"], expected, **EXACT)

    @bounded
    def test_its_gradient_is_a_finite_difference(self, x64, name):
        found = unbounded(name)
        tolerance = {"rtol": FINITE_DIFFERENCE_F64, "atol": FINITE_DIFFERENCE_F64}
        np.testing.assert_allclose(found["gradient"], found["differences"], **tolerance)

    @pytest.mark.parametrize("name", sorted(IMAGES_OF_THE_BASE))
    def test_the_density_is_that_of_the_base(self, x64, name):
        """The layers cancel: what remains is the base and NumPyro's map onto its support."""
        found = unbounded(name)
        u = found["points"]
        if name == "gamma, coupling":
            log_density = stats.gamma(3.0, scale=0.5).logpdf(np.exp(u)) + u
        else:
            log_density = stats.logistic.logpdf(u)
        np.testing.assert_allclose(found["potential"], -log_density.sum(-1), **EXACT)

    def test_a_guide_stays_inside(self):
        flow = BOUNDED["interval, linear"]()
        model = lambda: prior(flow)
        guide = infer.autoguide.AutoNormal(model)
        params = {"z_auto_loc": np.zeros(2), "z_auto_scale": np.full(2, 3.0)}

        @jax.jit
        def evaluate(key):
            loss = infer.Trace_ELBO(num_particles=100).loss(key, params, model, guide)
            samples = guide.sample_posterior(key, params, sample_shape=(100,))
            return loss, flow.support(samples["z"])

        loss, inside = evaluate(KEY)
        assert np.isfinite(loss)
        assert np.asarray(inside).all()
