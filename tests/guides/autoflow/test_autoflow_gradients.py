"""Gradients of the guide without the score, and what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers, infer
from numpyro.infer.util import potential_energy

import flowdists as fd
from flowdists.guides import AutoFlow
from tests import table
from tests.guides.autoflow.regression import (
    COVARIANCE,
    DATA,
    KEY,
    MEAN,
    TINY,
    assert_mean,
    exact,
    perturbed,
    regression,
    start,
)
from tests.tolerances import FINITE_DIFFERENCE_F64, ROUND_TRIP_F64

NUM_PARTICLES = 8000
HELD = ("auto_loc", "auto_scale")


@functools.cache
def path_guide():
    """The same guide as :func:`exact`, which shares its parameters, by the path derivative."""
    guide = AutoFlow(regression, fd.RealNVP, path_derivative=True, **TINY)
    start(guide, *DATA, init_params=exact()[1])
    return guide


def exact_params():
    """Parameters at which the guide is the posterior, without the rounding of its start."""
    return exact()[1] | {
        "auto_loc": jnp.asarray(MEAN),
        "auto_scale": jnp.asarray(np.linalg.cholesky(COVARIANCE)),
    }


@functools.cache
def gradient_program(guide):
    def loss(free, held, key, data):
        return infer.Trace_ELBO().loss(key, free | held, regression, guide, *data)

    return jax.jit(jax.vmap(jax.grad(loss), (None, None, 0, None)))


def split(params):
    """The parameters that are trained, and those that are held."""
    held = {name: params[name] for name in HELD}
    return {name: value for name, value in params.items() if name not in held}, held


def gradients(guide, params):
    """One particle's, concatenated, for each of many keys."""
    keys = jax.random.split(KEY, NUM_PARTICLES)
    found = gradient_program(guide)(*split(params), keys, DATA)
    return np.concatenate(
        [np.asarray(leaf).reshape(NUM_PARTICLES, -1) for leaf in jax.tree.leaves(found)], 1
    )


class TestPathDerivative:
    """Gradients, in double precision, with respect to what is trained of the regression's guide."""

    def test_it_is_zero_for_every_particle_of_an_exact_guide(self, x64):
        params = exact_params()
        np.testing.assert_allclose(gradients(path_guide(), params), 0.0, atol=ROUND_TRIP_F64)
        assert np.abs(gradients(exact()[0], params)[:5]).max() > 0.1

    def test_its_mean_is_the_ordinary_gradient(self, x64):
        params = perturbed(exact_params(), 0.1)
        draws = [gradients(guide, params) for guide in (exact()[0], path_guide())]
        moving = draws[0].std(0) > 0
        assert moving.sum() > 100
        assert_mean((draws[0] - draws[1])[:, moving], 0.0)
        np.testing.assert_array_equal(draws[1][:, ~moving], 0.0)

    def test_it_is_the_derivative_along_the_path_of_the_draw(self, x64):
        """By finite differences: the draw moves with the parameters, the density does not."""
        path, params = path_guide(), perturbed(exact_params(), 0.1)
        gradient = gradients(path, params)[0]
        key = jax.random.split(jax.random.split(KEY, NUM_PARTICLES)[0])[1]  # of the guide's draw

        @jax.jit
        def loss(moved, params):
            seeded = handlers.seed(handlers.substitute(path, moved), key)
            latent = handlers.trace(seeded).get_trace(*DATA)["_auto_latent"]["value"]
            energy = potential_energy(regression, DATA, {}, path._unpack_latent(latent))
            return energy + path.get_posterior(params).log_prob(latent)

        free, held = split(params)
        direction = table.perturb(KEY, jax.tree.map(np.zeros_like, free), 1.0)
        step = 1e-5
        ends = [
            loss(
                held | jax.tree.map(lambda v, d, s=s: np.asarray(v) + s * d, free, direction),
                params,
            )
            for s in (step, -step)
        ]
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(direction)])
        np.testing.assert_allclose(
            gradient @ flat, (ends[0] - ends[1]) / (2 * step), rtol=FINITE_DIFFERENCE_F64
        )


class TestCost:
    def test_an_elbo_evaluates_each_layer_once(self):
        calls = []

        class Counting(fd.Bijector):
            shift: jax.Array

            @property
            def event_shape(self):
                return self.shift.shape

            def forward_and_log_det(self, x, context=None):
                calls.append("forward")
                return x + self.shift, jnp.zeros(())

            def inverse_and_log_det(self, y, context=None):
                calls.append("inverse")
                return y - self.shift, jnp.zeros(())

        flow = fd.Flow(fd.StandardNormal((3,)), Counting(jnp.zeros(3)))
        for path_derivative, expected in ((False, ["forward"]), (True, ["forward", "inverse"])):
            guide = AutoFlow(
                regression,
                flow,
                path_derivative=path_derivative,
                init_loc_fn=infer.init_to_median,
            )
            _, _, params = start(guide, *DATA)
            loss = lambda params, guide=guide: infer.Trace_ELBO(num_particles=16).loss(
                KEY, params, regression, guide, *DATA
            )
            calls.clear()
            jax.jit(jax.value_and_grad(loss)).lower(params)
            assert calls == expected

    def test_a_gradient_costs_one_evaluation_and_its_derivative(self):
        """No more operations than the gradient of a draw and its log-determinant has.

        They are counted before XLA merges those that occur twice.
        """
        size, particles = 16, 8
        model = lambda: numpyro.sample("x", dist.Normal(0, 1).expand([size]).to_event(1))
        recipe = functools.partial(fd.RealNVP, num_layers=4, hidden_sizes=(128, 128))
        flow = jax.jit(lambda: recipe(KEY, (size,)))()
        guide = AutoFlow(model, flow, init_loc_fn=infer.init_to_median)
        _, _, params = start(guide)

        def elbo(params):
            return infer.Trace_ELBO(particles).loss(KEY, params, model, guide)

        def once(bijector, z):
            x, log_det = bijector.forward_and_log_det(z)
            return (x**2).sum() + log_det.sum()

        def flops(function, *args):
            return jax.jit(jax.value_and_grad(function)).lower(*args).cost_analysis()["flops"]

        z = np.ones((particles, size), np.float32)
        assert flops(elbo, params) < 1.05 * flops(once, flow.bijector, z)
