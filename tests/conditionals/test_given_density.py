"""Flows given some of their elements, against quadrature and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flowdists as fd
from flowdists.conditionals.given import given
from flowdists.transformers import Additive
from tests.conditionals.flows import (
    KEY,
    NORMAL,
    PLANE,
    autoregressive,
    cumulative,
    flow_of,
    recipe,
    rest_of,
)
from tests.draws import drawn
from tests.tolerances import INTEGRAL, LOG_DET_F64, P_VALUE, ROUND_TRIP_F64


def unchanged(x):
    return x


def moments(flow):
    """Mean and a root of the covariance of a flow that is affine."""
    z = jnp.zeros(flow.event_shape)
    return flow.bijector(z), jax.jacfwd(flow.bijector)(z)


def run(function, *arguments):
    """NumPy's copy of what one compiled program returns."""
    return jax.tree.map(np.asarray, jax.jit(function)(*arguments))


class TestDensity:
    @pytest.mark.parametrize("name", sorted(PLANE))
    def test_equals_quadrature_and_is_that_of_the_samples(self, name, x64):
        make, index, value, ends = PLANE[name]
        flow, axis = make(), np.linspace(*ends, 20_001)
        columns = [axis, axis]
        columns[index] = np.full(axis.shape, value)

        def evaluate(flow, points, axis):
            rest = given(flow, [index], jnp.array([value]))
            assert (rest.batch_shape, rest.event_shape) == ((), (1,))
            samples, scores = rest.sample_and_log_prob(KEY, (4000,))
            both = rest.log_prob(jnp.concatenate([axis[:, None], samples]))
            along_axis, at_samples = both[: len(axis)], both[len(axis) :]
            inside = rest.support(samples)
            return flow.log_prob(points), along_axis, (samples, inside, scores, at_samples)

        joint, along_axis, (samples, inside, scores, at_samples) = run(
            evaluate, flow, np.stack(columns, -1), axis
        )
        expected = joint - np.log(cumulative(axis, np.exp(joint))[-1])
        possible = np.isfinite(expected)
        assert possible.sum() > 500
        np.testing.assert_array_equal(np.isfinite(along_axis), possible)
        np.testing.assert_allclose(along_axis[possible], expected[possible], atol=INTEGRAL)

        assert inside.all()
        uniform = np.interp(samples[:, 0], axis, cumulative(axis, np.exp(expected)))
        assert stats.kstest(uniform, "uniform").pvalue > P_VALUE
        np.testing.assert_allclose(at_samples, scores, rtol=LOG_DET_F64, atol=LOG_DET_F64)

    @pytest.mark.parametrize("indices", [(2,), (2, 0, 3)])
    def test_of_a_linear_flow_is_gaussian(self, indices, x64):
        def linear(key):
            return fd.MaskedAutoregressive(
                key,
                (4,),
                order=(2, 0, 3, 1),
                transformer=Additive(),
                hidden_sizes=(8,),
                activation=unchanged,
            )

        affine = fd.Affine(np.arange(4.0), np.array([0.5, 1.0, 2.0, 3.0]))
        layers = drawn(lambda key: fd.Repeat(key, linear, 2), 0.4)
        flow = flow_of(fd.StandardNormal((4,)), layers, affine)
        values = np.array([0.3, -1.0, 2.0])[: len(indices)]
        x = np.random.default_rng(0).normal(size=(5, 4 - len(indices)))

        def evaluate(flow, values, x):
            rest = given(flow, indices, values)
            return moments(flow), moments(rest), rest.log_prob(x)

        (mean, root), (rest_mean, rest_root), scores = run(evaluate, flow, values, x)
        covariance = root @ root.T
        o, r = np.array(indices), np.array([i for i in range(4) if i not in indices])
        weights = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, r)]).T
        loc = mean[r] + weights @ (values - mean[o])
        left = covariance[np.ix_(r, r)] - weights @ covariance[np.ix_(o, r)]
        expected = stats.multivariate_normal(loc, left).logpdf(x)
        np.testing.assert_allclose(scores, expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)
        np.testing.assert_allclose(rest_mean, loc, atol=ROUND_TRIP_F64)
        np.testing.assert_allclose(rest_root @ rest_root.T, left, atol=ROUND_TRIP_F64)

    def test_of_independent_blocks_is_that_of_the_other_block(self, x64):
        """Even where no element of the first can be observed alone."""
        first = drawn(lambda key: fd.LULinear(key, (2,)), 0.4)

        def evaluate(first, second, x):
            scalars = fd.StandardNormal((), (4,)).to_event(1)
            flow = fd.Flow(scalars, fd.Concatenated([first, second], [(2,), (2,)]))
            rest = given(flow, (0, 1), jnp.zeros((3, 2)))
            return rest.log_prob(x), fd.Flow(NORMAL, second).log_prob(x)

        x = np.random.default_rng(0).normal(size=(3, 2))
        scores = run(evaluate, first, autoregressive(), x)
        np.testing.assert_allclose(*scores, rtol=LOG_DET_F64, atol=LOG_DET_F64)

    def test_one_observation_after_the_other_is_both(self, x64):
        def evaluate(flow, x):
            both = given(flow, (0, 1), jnp.array([0.5, -1.0]))
            in_turn = given(given(flow, (0,), jnp.array([0.5])), (0,), jnp.array([-1.0]))
            return in_turn.log_prob(x), both.log_prob(x)

        x = np.random.default_rng(0).normal(size=(3, 2))
        scores = run(evaluate, recipe("maf", (4,), order="ascending"), x)
        np.testing.assert_allclose(*scores, rtol=LOG_DET_F64, atol=LOG_DET_F64)

    @pytest.mark.parametrize(
        ("name", "outside"),
        [
            ("bounded", 3.5),
            ("bounds of its own for each", -1.5),
            ("a kind of bounds for each", 3.5),
            ("bounded before the last layer", 9.0),
            ("bounded base and no bounded layer", 9.0),
        ],
    )
    def test_outside_of_the_support_there_is_none(self, name, outside):
        def evaluate(others):
            rest = rest_of(name)
            points = jnp.concatenate([rest.sample(KEY, (1,)), others])
            scores, slopes = jax.vmap(jax.value_and_grad(lambda x: rest.log_prob(x)))(points)
            return scores, slopes, rest.support(points)

        scores, slopes, inside = run(evaluate, np.array([[outside], [np.nan]], np.float32))
        assert np.isfinite(scores[0])
        assert scores[1] == -np.inf
        assert np.isnan(scores[2])
        assert np.isfinite(slopes[:2]).all()
        np.testing.assert_array_equal(inside, [True, False, False])

    @pytest.mark.parametrize(
        ("name", "impossible"),
        [
            ("bounded", 3.5),
            ("a kind of bounds for each", -1.0),
            ("bounded before the last layer", 9.0),
            ("bounded base and no bounded layer", 9.0),
            ("independent elements", -0.5),
        ],
    )
    def test_given_what_cannot_be_it_is_nan(self, name, impossible):
        make, index, possible, _ = PLANE[name]

        def evaluate(values):
            rest = given(make(), [index], values)
            return rest.log_prob(jnp.full((2, 1), 0.6)), rest.sample(KEY)[:, 0]

        for result in run(evaluate, np.array([[impossible], [possible]], np.float32)):
            np.testing.assert_array_equal(np.isnan(result), [True, False])
