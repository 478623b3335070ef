"""Flows given some of their elements, as distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import biject_to, constraints

import flowdists as fd
from flowdists.conditionals.given import given
from tests import table
from tests.conditionals.flows import (
    KEY,
    NORMAL,
    autoregressive,
    flow_of,
    interval,
    made,
    recipe,
    rest_of,
)
from tests.tolerances import FINITE_DIFFERENCE_F64, LOG_DET_F64, ROUND_TRIP_F64


@jax.jit
def log_prob(flow, x):
    return flow.log_prob(x)


def draws(*shape):
    return np.random.default_rng(0).normal(size=shape)


class TestInterface:
    def flow(self):
        return recipe("maf", (4,), order=(2, 0, 3, 1))

    def test_values_go_by_their_indices(self, x64):
        @jax.jit
        def run(flow, x, z):
            scores = [
                given(flow, indices, jnp.array(values)).log_prob(x)
                for indices, values in (
                    ((2, 0), (1.0, 2.0)),
                    (np.array([0, 2]), (2.0, 1.0)),
                    ((-2, -4), (1.0, 2.0)),
                )
            ]
            whole = flow.bijector(z)
            rest = given(flow, (2, 0), whole[np.array([2, 0])]).bijector(z[np.array([1, 3])])
            return scores, whole[np.array([1, 3])], rest

        scores, whole, rest = run(self.flow(), np.array([0.4, -0.7]), draws(4))
        np.testing.assert_allclose(scores[1:], np.full(2, scores[0]), rtol=LOG_DET_F64)
        np.testing.assert_allclose(rest, whole, rtol=ROUND_TRIP_F64, atol=ROUND_TRIP_F64)

    def test_batched_looped_and_vmapped_agree(self, x64):
        flow = self.flow()
        values, x = draws(2, 3, 5, 2)
        one = jax.jit(lambda flow, v, x: given(flow, (2, 0), v).log_prob(x))
        each = jax.vmap(jax.vmap(one, (None, 0, 0)), (None, 0, 0))
        scores, vmapped = jax.jit(lambda *args: (one(*args), each(*args)))(flow, values, x)
        looped = [[one(flow, values[i, j], x[i, j]) for j in range(5)] for i in range(3)]
        assert scores.shape == (3, 5)
        for other in (np.array(looped), vmapped):
            np.testing.assert_allclose(other, scores, rtol=LOG_DET_F64, atol=LOG_DET_F64)

    def test_shapes_of_batches(self):
        flow = self.flow()
        values, x = draws(2, 3, 5, 2).astype(np.float32)
        rest = given(flow, (2, 0), values)
        assert (rest.batch_shape, rest.event_shape) == ((3, 5), (2,))
        none = given(flow, (2, 0), values[:0])
        shapes = jax.eval_shape(
            lambda: (
                rest.log_prob(x[None]),
                given(flow, (2, 0), values[0, 0]).log_prob(x),
                rest.sample(KEY, (7,)),
                none.sample(KEY, (7,)),
            )
        )
        expected = [(1, 3, 5), (3, 5), (7, 3, 5, 2), (7, 0, 5, 2)]
        assert [leaf.shape for leaf in shapes] == expected

    def test_flows_in_a_stack(self):
        flow = recipe("maf", (3,), order="ascending")
        flows = jax.tree.map(lambda leaf: np.stack([leaf, 1.2 * np.asarray(leaf)]), flow)
        score = jax.jit(lambda flow: given(flow, (0,), jnp.ones(1)).log_prob(jnp.ones(2)))
        scores = jax.jit(jax.vmap(score))(flows)
        np.testing.assert_allclose(scores[0], score(flow), rtol=1e-5)
        assert abs(scores[1] - scores[0]) > 1e-3

    def test_traced_once_for_all_parameters_and_values(self):
        traces = []

        @jax.jit
        def score(flow, values):
            traces.append(None)
            return given(flow, (2, 0), values).log_prob(jnp.ones(2))

        for shift in (0.0, 1.0):
            flow = jax.tree.map(lambda leaf, s=shift: np.asarray(leaf) + s, self.flow())
            jax.eval_shape(score, flow, np.full(2, shift))
        assert len(traces) == 1

    def test_gradients_equal_finite_differences(self, x64):
        """In the base's parameters, the flow's and the values."""
        bijector = fd.Chain([autoregressive(3), interval(-2.0, 2.0)])
        x = np.array([0.3, -0.5])

        def loss(loc, bijector, values):
            base = dist.Normal(loc, 1.0).to_event(1)
            rest = given(fd.Flow(base, bijector, validate_args=False), (0,), values)
            return rest.log_prob(x).sum() + jnp.sin(rest.sample(KEY, (3,))).sum()

        primals = (np.zeros(3), bijector, np.array([[0.4], [-0.6]]))
        tangents = table.perturb(KEY, jax.tree.map(np.zeros_like, primals), 1.0)
        value_and_grad = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        gradients = value_and_grad(*primals)[1]
        primals, tangents, gradients = jax.tree.map(np.asarray, (primals, tangents, gradients))

        def along(i, step):
            ahead = jax.tree.map(lambda p, t: p + step * t, primals[i], tangents[i])
            return float(value_and_grad(*primals[:i], ahead, *primals[i + 1 :])[0])

        for i, gradient in enumerate(gradients):
            pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(tangents[i]), strict=True)
            slope = sum(np.vdot(a, b) for a, b in pairs)
            assert abs(slope) > 1e-3
            difference = (along(i, 1e-6) - along(i, -1e-6)) / 2e-6
            np.testing.assert_allclose(slope, difference, rtol=FINITE_DIFFERENCE_F64)

    def test_conditional_flows_once_they_are_conditioned(self):
        @jax.jit
        def run(flow, contexts):
            def score(context):
                rest = given(flow.condition(context), (0,), jnp.ones(1))
                return rest.log_prob(jnp.ones(2))

            return jax.vmap(jax.value_and_grad(score))(contexts), score(contexts[1])

        flow = recipe("maf", (3,), context_shape=(2,), order="ascending")
        (scores, slopes), expected = run(flow, draws(4, 2))
        np.testing.assert_allclose(scores[1], expected, rtol=1e-5)
        assert np.abs(slopes).max() > 1e-3

    def test_temperatures(self):
        @jax.jit
        def run(flow, x):
            warm = given(flow, (2,), jnp.ones(1)).with_temperature(0.5)
            cold = given(flow.with_temperature(0.5), (2,), jnp.ones(1))
            frozen = given(flow.with_temperature(0.0), (2,), jnp.ones(1))
            return warm.log_prob(x), cold.log_prob(x), frozen.sample(KEY, (2,))

        warm, cold, frozen = run(self.flow(), np.array([0.1, 0.2, 0.3]))
        np.testing.assert_allclose(warm, cold, rtol=1e-5)
        np.testing.assert_array_equal(frozen[0], frozen[1])

    def test_saved_and_loaded(self, tmp_path):
        flow, x = self.flow(), np.array([0.4, -0.7], np.float32)
        values = np.array([1.0, 2.0], np.float32)
        rest = given(flow, (2, 0), values)
        fd.save(tmp_path / "flow", flow)
        fd.save(tmp_path / "rest", rest)
        again = given(fd.load(tmp_path / "flow"), (2, 0), values)
        other = given(flow, (2, 0), 0.0 * values)
        for loaded in (again, fd.load(tmp_path / "rest", like=other)):
            np.testing.assert_array_equal(log_prob(loaded, x), log_prob(rest, x))

    def test_low_precision_gives_single_precision_densities(self):
        rest = given(self.flow(), (2,), np.ones(1, np.float32))
        low = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), rest)
        x = jax.ShapeDtypeStruct((3,), jnp.bfloat16)
        assert jax.eval_shape(lambda low, x: low.log_prob(x), low, x).dtype == jnp.float32

    def test_no_tracer_leaks(self):
        flow = flow_of(NORMAL, made(2, hidden_sizes=(5,)))
        with jax.checking_leaks():
            jax.make_jaxpr(lambda f, v: given(f, (0,), v).log_prob(jnp.ones(1)))(flow, jnp.ones(1))

    @pytest.mark.parametrize(
        "name", ["bounded", "bounds of its own for each", "bounded before the last layer"]
    )
    def test_has_a_support_that_samplers_can_use(self, name):
        rest = rest_of(name)

        def inside(constraint, free):
            feasible = constraint.feasible_like(jnp.zeros((3, 1)))
            assert feasible.shape == (3, 1)
            return constraint(biject_to(constraint)(free)), constraint(feasible)

        both = (rest.support, rest.bijector.codomain)
        assert all(constraint.event_dim == 1 for constraint in both)
        run = jax.jit(lambda free: [inside(constraint, free) for constraint in both])
        assert all(leaf.all() for leaf in jax.tree.leaves(run(np.array([[-2.0], [3.0]]))))

    def test_has_a_support_of_numpyro_where_it_can(self):
        bounded = constraints.independent(constraints.interval(-1.0, 3.0), 1)
        assert rest_of("bounded").support == bounded
        assert rest_of("maf").support is constraints.real_vector
