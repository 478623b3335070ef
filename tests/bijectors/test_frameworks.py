"""Layers inside the compositions of NumPyro and distrax, and what these cost."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions.transforms import ComposeTransform, IndependentTransform

import flowdists as fd
from tests import table

pytestmark = pytest.mark.smoke


def test_nesting_in_both_frameworks():
    layer, scalar = table.build("layer:affine_coupling"), fd.RationalQuadraticSpline(())
    x = jax.random.normal(jax.random.key(0), (3, 5))
    y, log_det = layer.forward_and_log_det(x)
    # distrax composes right to left, NumPyro left to right.
    chained = distrax.Chain([layer, distrax.Inverse(layer), distrax.Block(scalar, 1), layer])
    np.testing.assert_allclose(distrax.Chain([layer, layer]).forward(x), layer(y), rtol=1e-5)
    np.testing.assert_allclose(chained.forward_and_log_det(x)[1], log_det, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(distrax.Inverse(layer).forward(y), x, rtol=1e-4, atol=1e-5)
    composed = ComposeTransform([layer, IndependentTransform(scalar, 1), layer.inv])
    np.testing.assert_allclose(composed(x), x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        composed.log_abs_det_jacobian(x, composed(x)), jnp.zeros(3), atol=1e-4
    )


def test_numpyro_transforms_the_batch_of_a_scalar_layer():
    flow = fd.Flow(dist.Normal(jnp.zeros(3), 1.0), fd.RationalQuadraticSpline(()))
    assert flow.batch_shape == (3,)
    assert flow.event_shape == ()
    assert flow.log_prob(jnp.zeros((2, 3))).shape == (2, 3)


def test_call_with_intermediates_saves_the_second_pass():
    calls = []

    class Counting(fd.Bijector):
        event_shape: tuple = fd.static()

        def forward_and_log_det(self, x, context=None):
            calls.append("forward")
            return x, jnp.zeros(x.shape[:-1])

        def inverse_and_log_det(self, y, context=None):
            calls.append("inverse")
            return y, jnp.zeros(y.shape[:-1])

    flow = fd.Flow(fd.StandardNormal((2,)), Counting((2,)))
    x, intermediates = flow.sample_with_intermediates(jax.random.key(0), (3,))
    flow.log_prob(x, intermediates)
    assert calls == ["forward"]
    flow.sample_and_log_prob(jax.random.key(0))
    assert calls == ["forward"] * 2
    jax.grad(lambda x: flow.log_prob(x).sum())(x)
    assert calls == ["forward"] * 2 + ["inverse"]
    flow.to_distrax().sample_and_log_prob(seed=jax.random.key(0))
    assert calls[3:] == ["forward"]


def test_the_log_det_uses_the_cheap_direction():
    layer = table.build("layer:autoregressive")

    def has_loop(layer):
        jaxpr = jax.make_jaxpr(layer.log_abs_det_jacobian)(jnp.ones(4), jnp.ones(4))
        return "scan" in str(jaxpr)

    assert not has_loop(layer)
    assert not has_loop(layer.inv)
    assert not has_loop(fd.Chain([layer, fd.Reverse((4,))]))


def test_no_tracer_leaks():
    layer = table.build("layer:repeat")
    with jax.checking_leaks():
        jax.jit(lambda b, x: fd.Flow(fd.StandardNormal((4,)), b).log_prob(x))(layer, jnp.ones(4))
