"""Bases of flows."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import flowdists as fd
from tests import table
from tests.tolerances import AGREE_F32, LOG_DET_F64, P_VALUE


class TestBases:
    def test_uniform_has_no_density_outside_and_keeps_nan(self):
        base = fd.StandardUniform((2,), -1.0, 1.0, validate_args=False)
        flow = fd.Flow(base, fd.Reverse((2,)), validate_args=False)
        x = jnp.array([[0.5, -0.5], [0.5, 1.5], [jnp.nan, 0.0], [jnp.nan, 2.0]])
        scores = flow.log_prob(x)
        np.testing.assert_allclose(scores[0], -2 * np.log(2), rtol=AGREE_F32)
        assert scores[1] == -jnp.inf
        assert jnp.isnan(scores[2:]).all()

    def test_numpyro_bounded_bases_have_no_density_outside(self):
        uniform = dist.Uniform(-1.0, 1.0, validate_args=False)
        flow = fd.Flow(uniform.expand([2]).to_event(1), fd.Reverse((2,)), validate_args=False)
        scores = flow.log_prob(jnp.array([[0.5, 0.0], [0.5, 1.5], [0.5, jnp.nan]]))
        assert jnp.isfinite(scores[0])
        assert scores[1] == -jnp.inf
        assert jnp.isnan(scores[2])

    def test_gradients_reach_a_bases_parameters(self):
        flow = lambda loc: fd.Flow(dist.Normal(loc, 1.0).expand([2]).to_event(1), fd.Reverse((2,)))
        gradient = jax.grad(lambda loc: flow(loc).log_prob(jnp.array([1.0, 3.0])))(0.0)
        np.testing.assert_allclose(gradient, 4.0, rtol=AGREE_F32)

    def test_shapes_of_bases_in_recipes(self):
        for base in (
            dist.StudentT(5.0),
            dist.Laplace(jnp.zeros(3), 1.0),
            dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3)),
        ):
            flow = table.RECIPES["real_nvp"](jax.random.key(0), (3,), base=base)
            assert (flow.batch_shape, flow.event_shape) == ((), (3,))

    def test_temperature_scales_the_base(self, x64):
        flow = table.build_flow("nsf")
        cold = flow.with_temperature(0.5)
        z = fd.StandardNormal((4,)).sample(jax.random.key(0), (5,))
        np.testing.assert_allclose(
            cold.sample(jax.random.key(0), (5,)), flow.bijector(0.5 * z), rtol=1e-5, atol=1e-5
        )
        x, log_det = flow.bijector.forward_and_log_det(z)
        expected = dist.Normal(0, 0.5).log_prob(z).sum(-1) - log_det
        np.testing.assert_allclose(cold.log_prob(x), expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)
        frozen = flow.with_temperature(0.0).sample(jax.random.key(1), (2,))
        np.testing.assert_array_equal(frozen[0], frozen[1])
        heavy = table.RECIPES["maf"](jax.random.key(0), (3,), base=dist.StudentT(5.0, 0.0, 2.0))
        tempered = heavy.with_temperature(3.0).log_prob(jnp.ones(3))
        np.testing.assert_allclose(
            tempered, dist.StudentT(5.0, 0.0, 6.0).log_prob(jnp.ones(3)).sum(), rtol=1e-5
        )
        assert cold.recipe == flow.recipe
        logistic = fd.Flow(fd.StandardLogistic((2,)), fd.Reverse((2,))).with_temperature(3.0)
        expected = dist.Logistic(0.0, 3.0).log_prob(jnp.ones(2)).sum()
        np.testing.assert_allclose(logistic.log_prob(jnp.ones(2)), expected, rtol=AGREE_F32)
        with pytest.raises(TypeError, match="StandardUniform"):
            fd.Flow(fd.StandardUniform((2,)), fd.Reverse((2,))).with_temperature(0.5)
        with pytest.raises(ValueError, match="temperature"):
            flow.with_temperature(-1.0)


def test_the_logistic_base_is_that_of_numpyro(x64):
    base, theirs = fd.StandardLogistic((2,)), dist.Logistic().expand((2,)).to_event(1)
    assert not jax.tree.leaves(base)
    z = jnp.array([[0.0, 1.0], [-30.0, 700.0], [-1e6, 1e6]])
    np.testing.assert_allclose(base.log_prob(z), theirs.log_prob(z), rtol=LOG_DET_F64)
    draws = base.expand((5000,)).sample(jax.random.key(0))
    assert stats.kstest(draws.ravel(), "logistic").pvalue > P_VALUE
    np.testing.assert_allclose(base.variance, theirs.variance, rtol=LOG_DET_F64)
