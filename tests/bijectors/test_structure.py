"""What layers state about their structure reaches whoever asks, through any wrapper."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import flowdists as fd
from flowdists.images import encode
from flowdists.transformers import Transformer
from tests import table
from tests.draws import normal
from tests.tolerances import AGREE_F32

KEY = jax.random.key(0)
SMALL = {"hidden_sizes": (4,)}


class Same(fd.Wrapper):
    """A wrapper of a user's own that changes nothing."""

    bijector: fd.Bijector


@dataclasses.dataclass(frozen=True)
class Exp(Transformer):
    """A user's transformer onto the positive numbers, ``y = exp(x + shift)``."""

    @property
    def num_params(self):
        return 1

    @property
    def codomain(self):
        return constraints.positive

    def forward(self, x, params):
        return jnp.exp(x + params[0]), x + params[0]

    def inverse(self, y, params):
        return jnp.log(y) - params[0], -jnp.log(y)


def wrapped(flow):
    return flow.replace(bijector=Same(flow.bijector))


class TestWrappers:
    @pytest.mark.parametrize("value", [-0.5, 2.5])
    def test_density_and_gradient_outside_of_a_support(self, value):
        box = constraints.interval(0.0, 2.0)
        flow = fd.MAF(KEY, (2,), num_layers=1, support=box, **SMALL)
        x = jnp.array([1.0, value])

        @jax.jit
        def evaluate(flow, x):
            return jax.value_and_grad(lambda x: flow.log_prob(x))(x)

        for each in (flow, wrapped(flow)):
            log_prob, gradient = evaluate(each, x)
            assert log_prob == -np.inf
            np.testing.assert_array_equal(gradient, 0.0)
            assert str(each.support) == str(flow.support)

    def test_the_scales_of_an_image(self):
        flow = fd.Glow(KEY, (4, 4, 1), num_scales=2, steps_per_scale=1, hidden_channels=4)
        latents = encode(wrapped(flow), jnp.zeros((3, 4, 4, 1)))
        assert [part.shape for part in latents] == [(3, 2, 2, 2), (3, 1, 1, 8)]
        with pytest.raises(ValueError, match="continuous pixels"):
            wrapped(flow).data_init(100.0 * jnp.ones((3, 4, 4, 1)))

    def test_embedded_contexts_and_what_is_trained(self):
        layer = fd.AffineCoupling(KEY, (2,), context_shape=(3,), **SMALL)
        embedded = Same(fd.Embedded(layer, (3,)))
        flow = fd.ConditionalFlow(fd.StandardNormal((2,)), embedded).condition(jnp.ones(3))
        layer, condition = Same(flow.bijector).unconditioned()
        assert layer.context_shape == (3,)
        x = jnp.ones(2)
        np.testing.assert_allclose(condition(layer)(x), flow.bijector(x), rtol=AGREE_F32)


ONTO_POSITIVE = {
    "Elementwise": lambda: fd.Elementwise((2,), transformer=Exp()),
    "ContextElementwise": lambda: fd.Conditioned(
        fd.ContextElementwise(KEY, (2,), (1,), transformer=Exp(), **SMALL), jnp.ones(1)
    ),
    "MaskedAutoregressive": lambda: fd.MaskedAutoregressive(KEY, (2,), transformer=Exp()),
}


class TestTransformersOntoAnotherSet:
    @pytest.mark.parametrize("name", ONTO_POSITIVE)
    def test_the_support_and_the_density_are_those_of_the_codomain(self, name):
        """New layers are a log-normal distribution."""
        flow = fd.Flow(fd.StandardNormal((2,)), ONTO_POSITIVE[name](), validate_args=False)
        assert str(flow.support) == str(constraints.independent(constraints.positive, 1))
        x = np.exp(np.asarray(normal(0, (5, 2))))
        expected = dist.LogNormal(0, 1).expand([2]).to_event(1).log_prob(x)
        np.testing.assert_allclose(flow.log_prob(x), expected, rtol=1e-5)

        outside = jnp.array([1.0, -1.0])
        value, gradient = jax.value_and_grad(flow.log_prob)(outside)
        assert value == -np.inf
        assert np.isfinite(gradient[0]) and gradient[1] == 0
        assert np.isnan(flow.log_prob(jnp.array([1.0, jnp.nan])))

    def test_couplings_refuse_them(self):
        message = r"`transformer` must map its domain onto itself.*\(lower_bound=0"
        with pytest.raises(ValueError, match=rf"Coupling: {message}"):
            fd.Coupling(KEY, (2,), transformer=Exp())
        with pytest.raises(ValueError, match=rf"ConvCoupling: {message}"):
            fd.ConvCoupling(KEY, (2, 2, 2), transformer=Exp())


def test_outside_of_bounds_and_undefined():
    """A value outside has no density, and the inverse is finite; NaN stays NaN."""
    layer = Same(fd.to_support(constraints.positive))
    assert (layer.domain, str(layer.codomain)) == (constraints.real, str(constraints.positive))
    x, log_det = jax.jit(lambda layer, y: layer.inverse_and_log_det(y))(
        layer, jnp.array([1.0, -1.0, 0.0, jnp.nan])
    )
    np.testing.assert_array_equal(np.isfinite(x), [True, True, True, False])
    np.testing.assert_array_equal(log_det, [0.0, -np.inf, -np.inf, np.nan])


def test_a_composition_is_the_bijector():
    layer = fd.Chain(
        [
            fd.Inverse(fd.Chain([table.build("layer:affine_coupling"), fd.Reverse((5,))])),
            fd.Embedded(fd.AffineCoupling(KEY, (5,), context_shape=(2,), **SMALL), (2,)),
            fd.to_support(constraints.positive),
        ]
    )
    layer = fd.Conditioned(layer, jnp.ones(2))
    parts = layer.composition
    assert [type(part).__name__ for part in parts] == [
        "Inverse", "Inverse", "Conditioned", "Support"
    ]  # fmt: skip
    x = normal(0, (3, 5))
    np.testing.assert_allclose(fd.Chain(parts)(x), layer(x), rtol=AGREE_F32)
