"""Bases of flows."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import flowdists as fd
from tests import table
from tests.flow.examples import build, flow_of
from tests.tolerances import AGREE_F32, LOG_DET_F64, P_VALUE

KEY = jax.random.key(0)


@jax.jit
def log_prob(flow, x):
    return flow.log_prob(x)


class TestBases:
    def test_uniform_has_no_density_outside_and_keeps_nan(self):
        base = fd.StandardUniform((2,), -1.0, 1.0, validate_args=False)
        x = np.array([[0.5, -0.5], [0.5, 1.5], [np.nan, 0.0], [np.nan, 2.0]], np.float32)
        scores = log_prob(flow_of(base, fd.Reverse((2,))), x)
        expected = [-2 * np.log(2), -np.inf, np.nan, np.nan]
        np.testing.assert_allclose(scores, expected, rtol=AGREE_F32)

    def test_numpyro_bounded_bases_have_no_density_outside(self):
        uniform = dist.Uniform(-1.0, 1.0, validate_args=False).expand([2]).to_event(1)
        x = np.array([[0.5, 0.0], [0.5, 1.5], [0.5, np.nan]], np.float32)
        scores = log_prob(flow_of(uniform, fd.Reverse((2,))), x)
        np.testing.assert_allclose(scores, [-2 * np.log(2), -np.inf, np.nan], rtol=AGREE_F32)

    def test_gradients_reach_a_bases_parameters(self):
        flow = lambda loc: fd.Flow(dist.Normal(loc, 1.0).expand([2]).to_event(1), fd.Reverse((2,)))
        gradient = jax.jit(jax.grad(lambda loc: flow(loc).log_prob(jnp.array([1.0, 3.0]))))(0.0)
        np.testing.assert_allclose(gradient, 4.0, rtol=AGREE_F32)

    @pytest.mark.parametrize(
        "base",
        [
            lambda: dist.StudentT(5.0),
            lambda: dist.Laplace(np.zeros(3), 1.0),
            lambda: dist.MultivariateNormal(np.zeros(3), np.eye(3)),
        ],
    )
    def test_shapes_of_bases_in_recipes(self, base):
        make = lambda key: table.RECIPES["real_nvp"](key, (3,), base=base())
        flow = jax.eval_shape(make, KEY)
        assert (flow.batch_shape, flow.event_shape) == ((), (3,))


class TestTemperature:
    def test_scales_the_base(self, x64):
        flow = build("nsf")

        @jax.jit
        def run(flow, temperature, key):
            cold = flow.with_temperature(temperature)
            z = flow.base.sample(key, (5,))
            x, log_det = flow.bijector.forward_and_log_det(z)
            return (
                (cold.sample(key, (5,)), flow.bijector(0.5 * z)),
                (cold.log_prob(x), dist.Normal(0, 0.5).log_prob(z).sum(-1) - log_det),
                flow.with_temperature(0.0).sample(key, (2,)),
            )

        samples, scores, frozen = run(flow, 0.5, KEY)
        np.testing.assert_allclose(*samples, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(*scores, rtol=LOG_DET_F64, atol=LOG_DET_F64)
        np.testing.assert_array_equal(frozen[0], frozen[1])
        assert flow.with_temperature(0.5).recipe == flow.recipe

    @pytest.mark.parametrize(
        ("base", "tempered"),
        [
            (lambda: dist.StudentT(5.0, 0.0, 2.0).expand((2,)).to_event(1), stats.t(5, 0, 6)),
            (lambda: fd.StandardLogistic((2,)), stats.logistic(0, 3)),
        ],
    )
    def test_of_other_bases(self, base, tempered, x64):
        flow = fd.Flow(base(), fd.Reverse((2,))).with_temperature(3.0)
        x = np.array([1.0, -2.5])
        expected = tempered.logpdf(x).sum()
        np.testing.assert_allclose(log_prob(flow, x), expected, rtol=LOG_DET_F64)

    def test_misuse(self):
        with pytest.raises(TypeError, match="StandardUniform"):
            fd.Flow(fd.StandardUniform((2,)), fd.Reverse((2,))).with_temperature(0.5)
        with pytest.raises(ValueError, match="temperature"):
            fd.Flow(fd.StandardNormal((2,)), fd.Reverse((2,))).with_temperature(-1.0)


def test_the_logistic_base_is_that_of_numpyro(x64):
    base, theirs = fd.StandardLogistic((2,)), dist.Logistic().expand((2,)).to_event(1)
    assert not jax.tree.leaves(base)
    z = np.array([[0.0, 1.0], [-30.0, 700.0], [-1e6, 1e6]])
    scores, draws, variances = jax.jit(
        lambda key, z: (
            (base.log_prob(z), theirs.log_prob(z)),
            base.expand((5000,)).sample(key),
            (base.variance, theirs.variance),
        )
    )(KEY, z)
    np.testing.assert_allclose(*scores, rtol=LOG_DET_F64)
    assert stats.kstest(np.ravel(draws), "logistic").pvalue > P_VALUE
    np.testing.assert_allclose(*variances, rtol=LOG_DET_F64)
