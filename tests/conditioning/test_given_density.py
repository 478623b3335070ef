"""Flows given some of their elements, against quadrature and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import flowdists as fd
from flowdists.conditioning import given
from flowdists.transformers import Additive
from tests.conditioning.flows import (
    KEY,
    NORMAL,
    PLANE,
    autoregressive,
    cumulative,
    draw,
    flow_of,
    log_prob,
    moved,
    recipe,
    rest_of,
)
from tests.tolerances import INTEGRAL, LOG_DET_F64, P_VALUE, ROUND_TRIP_F64


def unchanged(x):
    return x


@jax.jit
def moments(flow):
    """Mean and a root of the covariance of a flow that is affine."""
    z = jnp.zeros(flow.event_shape)
    return flow.bijector(z), jax.jacfwd(flow.bijector)(z)


class TestDensity:
    @pytest.mark.parametrize("name", sorted(PLANE))
    def test_equals_quadrature_and_is_that_of_the_samples(self, name, x64):
        make, index, value, ends = PLANE[name]
        flow, axis = make(), np.linspace(*ends, 20_001)
        rest = given(flow, [index], jnp.array([value]))
        assert (rest.batch_shape, rest.event_shape) == ((), (1,))

        columns = [axis, axis]
        columns[index] = np.full(axis.shape, value)
        joint = np.asarray(log_prob(flow, jnp.stack(columns, -1)))
        expected = joint - np.log(cumulative(axis, np.exp(joint))[-1])
        scores = np.asarray(log_prob(rest, axis[:, None]))
        possible = np.isfinite(expected)
        assert possible.sum() > 500
        np.testing.assert_array_equal(np.isfinite(scores), possible)
        np.testing.assert_allclose(scores[possible], expected[possible], atol=INTEGRAL)

        samples, scores = draw(rest, (4000,))
        assert rest.support(samples).all()
        uniform = np.interp(samples[:, 0], axis, cumulative(axis, np.exp(expected)))
        assert stats.kstest(uniform, "uniform").pvalue > P_VALUE
        np.testing.assert_allclose(
            log_prob(rest, samples), scores, rtol=LOG_DET_F64, atol=LOG_DET_F64
        )

    @pytest.mark.parametrize("indices", [(2,), (0, 2), (2, 0, 3)])
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

        affine = fd.Affine(jnp.arange(4.0), jnp.array([0.5, 1.0, 2.0, 3.0]))
        flow = flow_of(fd.StandardNormal((4,)), moved(fd.Repeat(KEY, linear, 2)), affine)
        values = jnp.array([0.3, -1.0, 2.0])[: len(indices)]

        mean, root = moments(flow)
        covariance = root @ root.T
        o, r = np.array(indices), np.array([i for i in range(4) if i not in indices])
        weights = jnp.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, r)]).T
        loc = mean[r] + weights @ (values - mean[o])
        left = covariance[np.ix_(r, r)] - weights @ covariance[np.ix_(o, r)]

        rest = given(flow, indices, values)
        x = loc + jax.random.normal(KEY, (5, len(r)))
        expected = dist.MultivariateNormal(loc, left).log_prob(x)
        np.testing.assert_allclose(log_prob(rest, x), expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)
        rest_mean, rest_root = moments(rest)
        np.testing.assert_allclose(rest_mean, loc, atol=ROUND_TRIP_F64)
        np.testing.assert_allclose(rest_root @ rest_root.T, left, atol=ROUND_TRIP_F64)

    def test_of_independent_blocks_is_that_of_the_other_block(self, x64):
        """Even where no element of the first can be observed alone."""
        first, second = moved(fd.LULinear(KEY, (2,))), autoregressive()
        scalars = fd.StandardNormal((), (4,)).to_event(1)
        flow = fd.Flow(scalars, fd.Concatenated([first, second], [(2,), (2,)]))
        rest = given(flow, (0, 1), jnp.zeros((3, 2)))
        x = jax.random.normal(KEY, (3, 2))
        expected = log_prob(fd.Flow(NORMAL, second), x)
        np.testing.assert_allclose(log_prob(rest, x), expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)

    def test_one_observation_after_the_other_is_both(self, x64):
        flow = recipe("maf", (4,), order="ascending")
        both = given(flow, (0, 1), jnp.array([0.5, -1.0]))
        in_turn = given(given(flow, (0,), jnp.array([0.5])), (0,), jnp.array([-1.0]))
        x = jax.random.normal(KEY, (3, 2))
        np.testing.assert_allclose(
            log_prob(in_turn, x), log_prob(both, x), rtol=LOG_DET_F64, atol=LOG_DET_F64
        )

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
        rest = rest_of(name)
        points = jnp.array([draw(rest)[0], [outside], [jnp.nan]])
        score = jax.jit(jax.vmap(jax.value_and_grad(lambda x: rest.log_prob(x))))
        scores, slopes = score(points)
        assert jnp.isfinite(scores[0])
        assert scores[1] == -jnp.inf
        assert jnp.isnan(scores[2])
        assert jnp.isfinite(slopes[:2]).all()
        np.testing.assert_array_equal(rest.support(points), [True, False, False])

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
        rest = given(make(), [index], jnp.array([[impossible], [possible]]))
        for result in (log_prob(rest, jnp.full((2, 1), 0.6)), draw(rest)[0][:, 0]):
            np.testing.assert_array_equal(jnp.isnan(result), [True, False])
