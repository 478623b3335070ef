"""The density of the guide on every support."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers, infer
from numpyro.distributions import biject_to, constraints
from numpyro.infer.util import log_density

import flowdists as fd
from flowdists.guides import AutoFlow
from tests.guides.autoflow.regression import KEY, linear, start
from tests.tolerances import LOG_DET_F64

# Supports: constraint, shape of one value, and the coordinates in which NumPyro's density is.
tril = lambda offset: lambda x: x[jnp.tril_indices(x.shape[-1], offset)]
everything = lambda x: x.ravel()
SUPPORTS = {
    "real": (constraints.real, (), everything),
    "positive": (constraints.positive, (), everything),
    "softplus_positive": (constraints.softplus_positive, (), everything),
    "greater_than": (constraints.greater_than(-1.5), (), everything),
    "less_than": (constraints.less_than(0.5), (), everything),
    "interval": (constraints.interval(-1.0, 3.0), (), everything),
    "unit_interval": (constraints.unit_interval, (), everything),
    "open_interval": (constraints.open_interval(0.0, 2.0), (), everything),
    "circular": (constraints.circular, (), everything),
    "real_vector": (constraints.real_vector, (3,), everything),
    "real_matrix": (constraints.real_matrix, (2, 3), everything),
    "independent": (constraints.independent(constraints.positive, 1), (3,), everything),
    "ordered": (constraints.ordered_vector, (3,), everything),
    "positive_ordered": (constraints.positive_ordered_vector, (3,), everything),
    "simplex": (constraints.simplex, (3,), lambda x: x[:-1]),
    "zero_sum": (constraints.zero_sum(1), (3,), None),
    "l1_ball": (constraints.l1_ball, (3,), everything),
    "corr_cholesky": (constraints.corr_cholesky, (3, 3), tril(-1)),
    "corr_matrix": (constraints.corr_matrix, (3, 3), tril(-1)),
    "covariance": (constraints.positive_definite, (3, 3), tril(0)),
    "lower_cholesky": (constraints.lower_cholesky, (3, 3), tril(0)),
    "scaled_unit_lower_cholesky": (
        constraints.scaled_unit_lower_cholesky,
        (3, 3),
        tril(0),
    ),
}


class TestSupports:
    @pytest.mark.parametrize("name", sorted(SUPPORTS))
    def test_the_density_is_that_of_the_unconstrained_flow_over_the_jacobian(self, name, x64):
        support, shape, coordinates = SUPPORTS[name]

        def model():
            with numpyro.plate("pair", 2):
                numpyro.sample("x", dist.ImproperUniform(support, (), shape))

        transform = biject_to(support)
        free_shape = transform.inverse_shape(shape)
        size = 2 * math.prod(free_shape)
        layer = fd.Affine(0.3 * np.cos(np.arange(size)), 0.5 + np.arange(size) / size)
        flow = fd.Flow(fd.StandardNormal((size,)), layer)
        guide = AutoFlow(model, flow, init_loc_fn=infer.init_to_uniform, init_scale=1.0)

        def log_jacobian(row):
            if coordinates is None:  # on a subspace; the map is an isometry
                jacobian = jax.jacobian(transform)(row)
                return 0.5 * jnp.linalg.slogdet(jacobian.T @ jacobian)[1]
            flat = lambda u: coordinates(transform(u.reshape(free_shape)))
            return jnp.linalg.slogdet(jax.jacobian(flat)(row.ravel()))[1]

        def draw(key):
            trace = handlers.trace(handlers.seed(guide, key)).get_trace()
            params = {k: site["value"] for k, site in trace.items() if site["type"] == "param"}
            latent, drawn = trace["_auto_latent"]["value"], trace["x"]["value"]
            density, _ = log_density(guide, (), {}, {**params, "_auto_latent": latent})
            expected = guide.get_posterior(params).log_prob(latent)
            expected -= sum(map(log_jacobian, latent.reshape(2, *free_shape)))
            return drawn, support(drawn), density, expected

        drawn, is_inside, density, expected = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 10))
        assert drawn.shape == (10, 2, *shape)
        assert np.all(is_inside)
        np.testing.assert_allclose(density, expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)

    def test_spheres_are_refused_by_name(self):
        model = lambda: numpyro.sample("x", dist.ImproperUniform(constraints.sphere, (), (3,)))
        with pytest.raises(ValueError, match=r"spherical sample site 'x'"):
            start(AutoFlow(model, linear))
