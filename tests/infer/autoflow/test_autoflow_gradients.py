"""Gradients of the guide without the score, and what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers, infer
from numpyro.infer.util import potential_energy

import flowdists as fd
from flowdists.infer import AutoFlow
from tests import table
from tests.infer.autoflow.regression import (
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


class TestPathDerivative:
    """Gradients, in double precision, with respect to what is trained of the regression's guide."""

    @staticmethod
    @functools.cache
    def guides():
        guide, params = exact()
        params = params | {
            "auto_loc": jnp.asarray(MEAN),
            "auto_scale": jnp.linalg.cholesky(COVARIANCE),
        }
        other = AutoFlow(regression, fd.RealNVP, path_derivative=True, **TINY)
        start(other, *DATA, init_params=params)
        return guide, other, params

    @staticmethod
    def gradients(guide, params, num):
        """One particle's, concatenated, for each of ``num`` keys."""
        held = {name: params[name] for name in ("auto_loc", "auto_scale")}
        free = {name: value for name, value in params.items() if name not in held}

        def loss(free, key):
            return infer.Trace_ELBO().loss(key, free | held, regression, guide, *DATA)

        found = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(free, jax.random.split(KEY, num))
        return np.concatenate([leaf.reshape(num, -1) for leaf in jax.tree.leaves(found)], 1)

    def test_it_is_zero_for_every_particle_of_an_exact_guide(self, x64):
        ordinary, path, params = self.guides()
        np.testing.assert_allclose(self.gradients(path, params, 5), 0.0, atol=ROUND_TRIP_F64)
        assert np.abs(self.gradients(ordinary, params, 5)).max() > 0.1

    @pytest.mark.heavy
    def test_its_mean_is_the_ordinary_gradient(self, x64):
        ordinary, path, params = self.guides()
        params = perturbed(params, 0.1)
        draws = [self.gradients(guide, params, 8000) for guide in (ordinary, path)]
        moving = draws[0].std(0) > 0
        assert moving.sum() > 100
        assert_mean((draws[0] - draws[1])[:, moving], 0.0)
        np.testing.assert_array_equal(draws[1][:, ~moving], 0.0)

    def test_it_is_the_derivative_along_the_path_of_the_draw(self, x64):
        """By finite differences: the draw moves with the parameters, the density does not."""
        _, path, params = self.guides()
        params = perturbed(params, 0.1)
        (gradient,) = self.gradients(path, params, 1)
        key = jax.random.split(KEY, 1)[0]
        frozen = path.get_posterior(params)

        def loss(params):
            # The guide's own draw of this key.
            seeded = handlers.seed(handlers.substitute(path, params), jax.random.split(key)[1])
            latent = handlers.trace(seeded).get_trace(*DATA)["_auto_latent"]["value"]
            energy = potential_energy(regression, DATA, {}, path._unpack_latent(latent))
            return energy + frozen.log_prob(latent)

        held = {name: params[name] for name in ("auto_loc", "auto_scale")}
        free = {name: value for name, value in params.items() if name not in held}
        direction = table.perturb(KEY, jax.tree.map(jnp.zeros_like, free), 1.0)
        step = 1e-5
        ends = [
            loss(held | jax.tree.map(lambda v, d, s=s: v + s * d, free, direction))
            for s in (step, -step)
        ]
        flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(direction)])
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

    @pytest.mark.heavy
    def test_a_gradient_costs_one_evaluation_and_its_derivative(self):
        """Measured by the compiler: no more than the gradient of a draw and its log-determinant."""
        size, particles = 16, 8
        model = lambda: numpyro.sample("x", dist.Normal(0, 1).expand([size]).to_event(1))
        flow = fd.RealNVP(KEY, (size,), num_layers=4, hidden_sizes=(128, 128))
        guide = AutoFlow(model, flow, init_loc_fn=infer.init_to_median)
        _, _, params = start(guide)

        def elbo(params):
            return infer.Trace_ELBO(particles).loss(KEY, params, model, guide)

        def once(bijector, z):
            x, log_det = bijector.forward_and_log_det(z)
            return (x**2).sum() + log_det.sum()

        def flops(function, *args):
            compiled = jax.jit(jax.value_and_grad(function)).lower(*args).compile()
            return compiled.cost_analysis()["flops"]

        z = jnp.ones((particles, size))
        assert flops(elbo, params) < 1.05 * flops(once, flow.bijector, z)
