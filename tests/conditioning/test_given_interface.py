"""Flows given some of their elements, as distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import biject_to, constraints

import flowdists as fd
from flowdists.conditioning import given
from tests import table
from tests.conditioning.flows import (
    KEY,
    NORMAL,
    autoregressive,
    draw,
    flow_of,
    interval,
    log_prob,
    moved,
    recipe,
    rest_of,
)
from tests.tolerances import FINITE_DIFFERENCE_F64, LOG_DET_F64, ROUND_TRIP_F64


class TestInterface:
    def flow(self):
        return recipe("maf", (4,), order=(2, 0, 3, 1))

    def test_values_go_by_their_indices(self, x64):
        flow, x = self.flow(), jnp.array([0.4, -0.7])
        expected = log_prob(given(flow, (2, 0), jnp.array([1.0, 2.0])), x)
        for indices, values in (((0, 2), (2.0, 1.0)), ((-2, -4), (1.0, 2.0))):
            score = log_prob(given(flow, np.array(indices), jnp.array(values)), x)
            np.testing.assert_allclose(score, expected, rtol=LOG_DET_F64)

        forward = jax.jit(lambda flow, z: flow.bijector(z))
        z, rest = jax.random.normal(KEY, (4,)), np.array([1, 3])
        x = forward(flow, z)
        x_rest = forward(given(flow, (2, 0), x[np.array([2, 0])]), z[rest])
        np.testing.assert_allclose(x_rest, x[rest], rtol=ROUND_TRIP_F64, atol=ROUND_TRIP_F64)

    def test_batched_looped_and_vmapped_agree(self, x64):
        flow = self.flow()
        values, x = jax.random.normal(KEY, (2, 3, 5, 2))
        rest = given(flow, (2, 0), values)
        assert (rest.batch_shape, rest.event_shape) == ((3, 5), (2,))
        scores = log_prob(rest, x)
        assert scores.shape == (3, 5)
        assert log_prob(rest, x[None]).shape == (1, 3, 5)
        assert draw(rest, (7,))[0].shape == (7, 3, 5, 2)
        one = jax.jit(lambda v, x: given(flow, (2, 0), v).log_prob(x))
        looped = jnp.array([[one(values[i, j], x[i, j]) for j in range(5)] for i in range(3)])
        for other in (looped, jax.jit(jax.vmap(jax.vmap(one)))(values, x)):
            np.testing.assert_allclose(other, scores, rtol=LOG_DET_F64, atol=LOG_DET_F64)
        assert one(values[0, 0], x).shape == (3, 5)
        assert draw(given(flow, (2, 0), values[:0]), (7,))[0].shape == (7, 0, 5, 2)

    def test_flows_in_a_stack(self):
        make = lambda key: fd.MAF(key, (3,), order="ascending", num_layers=2, hidden_sizes=(8,))
        flows = moved(jax.vmap(make)(jax.random.split(KEY, 4)))
        score = jax.jit(lambda flow: given(flow, (0,), jnp.ones(1)).log_prob(jnp.ones(2)))
        scores = jax.vmap(score)(flows)
        expected = score(jax.tree.map(lambda leaf: leaf[2], flows))
        np.testing.assert_allclose(scores[2], expected, rtol=1e-5)

    def test_compiles_once_for_all_parameters_and_values(self):
        traces = []

        @jax.jit
        def score(flow, values):
            traces.append(None)
            return given(flow, (2, 0), values).log_prob(jnp.ones(2))

        for shift in (0.0, 1.0):
            score(jax.tree.map(lambda leaf, s=shift: leaf + s, self.flow()), jnp.full(2, shift))
        assert len(traces) == 1

    def test_gradients_equal_finite_differences(self, x64):
        """In the base's parameters, the flow's and the values."""
        layers = [autoregressive(3, transformer=table.SPLINE), interval(-2.0, 2.0)]
        flow, x = flow_of(fd.StandardNormal((3,)), *layers), jnp.array([0.3, -0.5])

        @jax.jit
        def loss(loc, bijector, values):
            base = dist.Normal(loc, 1.0).to_event(1)
            rest = given(flow.replace(base=base, bijector=bijector), (0,), values)
            return rest.log_prob(x).sum() + jnp.sin(rest.sample(KEY, (3,))).sum()

        primals = (jnp.zeros(3), flow.bijector, jnp.array([[0.4], [-0.6]]))
        tangents = table.perturb(KEY, jax.tree.map(jnp.zeros_like, primals), 1.0)
        gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*primals)

        def along(i, step):
            ahead = jax.tree.map(lambda p, t: p + step * t, primals[i], tangents[i])
            return loss(*primals[:i], ahead, *primals[i + 1 :])

        for i, gradient in enumerate(gradients):
            pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(tangents[i]), strict=True)
            slope = sum(jnp.vdot(a, b) for a, b in pairs)
            assert abs(slope) > 1e-3
            difference = (along(i, 1e-6) - along(i, -1e-6)) / 2e-6
            np.testing.assert_allclose(slope, difference, rtol=FINITE_DIFFERENCE_F64)

    def test_conditional_flows_once_they_are_conditioned(self):
        flow = table.build_flow("maf", (3,), context_shape=(2,), order="ascending", num_layers=2)
        score = lambda c: given(flow.condition(c), (0,), jnp.ones(1)).log_prob(jnp.ones(2))
        contexts = jax.random.normal(KEY, (4, 2))
        scores, slopes = jax.jit(jax.vmap(jax.value_and_grad(score)))(contexts)
        np.testing.assert_allclose(scores[1], jax.jit(score)(contexts[1]), rtol=1e-5)
        assert (jnp.abs(slopes) > 1e-3).any()

    def test_temperatures(self):
        flow, x = self.flow(), jnp.array([0.1, 0.2, 0.3])
        warm = given(flow, (2,), jnp.ones(1)).with_temperature(0.5)
        cold = given(flow.with_temperature(0.5), (2,), jnp.ones(1))
        np.testing.assert_allclose(log_prob(warm, x), log_prob(cold, x), rtol=1e-5)
        frozen, _ = draw(given(flow.with_temperature(0.0), (2,), jnp.ones(1)), (2,))
        np.testing.assert_array_equal(frozen[0], frozen[1])

    def test_saved_and_loaded(self, tmp_path):
        flow, x = self.flow(), jnp.array([0.4, -0.7])
        rest = given(flow, (2, 0), jnp.array([1.0, 2.0]))
        fd.save(tmp_path / "flow", flow)
        fd.save(tmp_path / "rest", rest)
        again = given(fd.load(tmp_path / "flow"), (2, 0), jnp.array([1.0, 2.0]))
        other = given(flow, (2, 0), jnp.zeros(2))
        for loaded in (again, fd.load(tmp_path / "rest", like=other)):
            np.testing.assert_array_equal(log_prob(loaded, x), log_prob(rest, x))

    def test_low_precision_gives_single_precision_densities(self):
        rest = given(self.flow(), (2,), jnp.ones(1))
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), rest)
        assert low.log_prob(jnp.ones(3, jnp.bfloat16)).dtype == jnp.float32

    def test_no_tracer_leaks(self):
        flow = flow_of(NORMAL, fd.MaskedAutoregressive(KEY, (2,), hidden_sizes=(5,)))
        with jax.checking_leaks():
            jax.jit(lambda f, v: given(f, (0,), v).log_prob(jnp.ones(1)))(flow, jnp.ones(1))

    def test_has_a_support_that_samplers_can_use(self):
        for name in ("bounded", "bounds of its own for each", "bounded before the last layer"):
            rest = rest_of(name)
            for constraint in (rest.support, rest.bijector.codomain):
                assert constraint.event_dim == 1
                assert constraint(biject_to(constraint)(jnp.array([[-2.0], [3.0]]))).all()
                feasible = constraint.feasible_like(jnp.zeros((3, 1)))
                assert feasible.shape == (3, 1)
                assert constraint(feasible).all()
        bounded = constraints.independent(constraints.interval(-1.0, 3.0), 1)
        assert rest_of("bounded").support == bounded
        assert rest_of("maf").support is constraints.real_vector
