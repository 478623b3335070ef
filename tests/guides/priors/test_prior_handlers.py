"""Flows as priors under NumPyro's handlers, as arguments, and in a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers, infer
from numpyro.contrib.control_flow import scan
from scipy import stats

import flowdists as fd
from tests import table
from tests.draws import drawn
from tests.guides.priors.flows import BOUNDED, KEY, TINY, coupling, one_of_each_kind, prior
from tests.tolerances import LOG_DET_F32, LOG_DET_F64


class TestHandlers:
    @one_of_each_kind
    def test_scores_in_a_plate(self, name):
        flow = BOUNDED[name]()

        def model():
            with numpyro.plate("rows", 3):
                return numpyro.sample("z", flow)

        mask = np.array([True, False, True])

        @jax.jit
        def evaluate(key):
            z = handlers.seed(model, key)()
            score = lambda model, values: infer.util.log_density(model, (), {}, values)[0]
            scores = {
                "as it is": score(model, {"z": z}),
                "substituted": score(handlers.substitute(model, {"z": z}), {}),
                "scaled": score(handlers.scale(model, scale=3.0), {"z": z}),
                "masked": score(handlers.mask(model, mask=mask), {"z": z}),
            }
            return z, flow.log_prob(z), scores

        z, alone, scores = jax.tree.map(np.asarray, evaluate(jax.random.key(1)))
        assert z.shape == (3, *flow.event_shape)
        expected = {
            "as it is": alone.sum(),
            "substituted": alone.sum(),
            "scaled": 3 * alone.sum(),
            "masked": alone[mask].sum(),
        }
        for case, value in expected.items():
            np.testing.assert_allclose(scores[case], value, rtol=LOG_DET_F32, err_msg=case)
        conditioned = handlers.trace(handlers.condition(model, {"z": z})).get_trace()
        assert conditioned["z"]["is_observed"]
        np.testing.assert_array_equal(handlers.substitute(model, {"z": z})(), z)
        blocked = handlers.trace(handlers.block(handlers.substitute(model, {"z": z})))
        assert blocked.get_trace() == {}

    @one_of_each_kind
    def test_a_flow_is_an_argument_of_compiled_and_mapped_models(self, name):
        flow = BOUNDED[name]()
        other = table.perturb(KEY, flow, 0.1)
        positions = np.array([[0.0, 0.0], [0.5, -1.0]])

        def potential(flow, position):
            return infer.util.potential_energy(prior, (flow,), {}, {"z": position})

        expected = jax.jit(lambda u: [potential(flow, u[0]), potential(other, u[1])])(positions)
        flows = jax.tree.map(lambda *leaves: np.stack(leaves), flow, other)
        mapped = jax.jit(jax.vmap(potential))(flows, positions)
        np.testing.assert_allclose(mapped, expected, rtol=LOG_DET_F32)
        assert expected[0] != expected[1]

    def test_a_context_that_is_drawn_itself(self, x64):
        flow = fd.ConditionalFlow(fd.StandardUniform((2,)), coupling(context_shape=(1,)))

        def model():
            with numpyro.plate("rows", 3):
                context = numpyro.sample("context", dist.Normal().expand([1]).to_event(1))
                numpyro.sample("z", flow.condition(context))

        def potential(context):
            values = {"context": context, "z": np.zeros((3, 2))}
            return infer.util.potential_energy(model, (), {}, values)

        context = np.random.default_rng(5).normal(size=(3, 1))
        value, gradient = jax.jit(jax.value_and_grad(potential))(context)
        # In unbounded space the flow leaves nothing but the logistic density of its base.
        expected = -stats.norm.logpdf(context).sum() + 6 * np.log(4)
        np.testing.assert_allclose(value, expected, rtol=LOG_DET_F64)
        np.testing.assert_allclose(gradient, context, atol=LOG_DET_F64)

    @pytest.mark.parametrize("recipe", [fd.RealNVP, fd.MAF])
    def test_scores_of_the_steps_of_a_scan(self, recipe):
        options = {"num_layers": 1, "context_shape": (2,), **TINY}
        flow = drawn(lambda key: recipe(key, (2,), **options), 0.3, seed=6)

        def step(carry, _):
            carry = numpyro.sample("z", flow.condition(carry))
            return carry, None

        def model():
            scan(step, jnp.ones(2), None, length=3)

        @jax.jit
        def evaluate(key):
            trace = handlers.trace(handlers.seed(model, key)).get_trace()
            z, steps = trace["z"]["value"], trace["z"]["fn"]
            previous = jnp.concatenate([jnp.ones((1, 2)), z[:-1]])
            density, _ = infer.util.log_density(model, (), {}, {"z": z})
            expected = flow.condition(previous).log_prob(z)
            return steps.log_prob(z), expected, density, steps.sample(key, (5,))

        scores, expected, density, more = map(np.asarray, evaluate(KEY))
        np.testing.assert_allclose(scores, expected, rtol=LOG_DET_F32)
        assert scores.shape == (3,)
        assert more.shape == (5, 3, 2)
        np.testing.assert_allclose(density, expected.sum(), rtol=LOG_DET_F32)
