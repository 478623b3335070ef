"""Layers of image flows on values with their rounding errors: undone beyond single precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowdists as fd
from flowdists._compensated import Compensated, compensated
from flowdists.transformers import Affine
from tests import table
from tests.tolerances import COMPENSATED_LAYER_F32

KEY = jax.random.key(0)

EXACT = [
    "layer:act_norm",
    "layer:act_norm_image",
    "layer:conv_1x1",
    "layer:conv_coupling",
    "layer:conv_coupling_additive",
    "layer:conv_coupling_checkerboard",
    "layer:conv_coupling_equinox",
    "layer:conv_coupling_flipped",
    "layer:split_prior",
    "layer:squeeze",
    "layer:squeeze_3",
    "layer:top_prior",
    "conditional:conv_coupling",
    "conditional:split_prior",
    "conditional:top_prior",
]
ROUNDED = ["layer:lu_linear", "layer:reverse", "layer:autoregressive", "layer:spline"]


def step(key, context_shape=None):
    """A layer of each kind, one of them in a chain of its own."""
    coupling = fd.ConvCoupling(key, (4, 4, 2), hidden_channels=4, context_shape=context_shape)
    linear = fd.Inverse(fd.InvertibleConv1x1(key, (4, 4, 2)))
    return fd.Chain([fd.Inverse(coupling), fd.Chain([linear, fd.ActNorm((4, 4, 2))])])


def embedded(key):
    network = fd.DeepSets(key, 2, 3, hidden_sizes=(4,))
    return fd.Embedded(step(key, context_shape=(3,)), (5, 2), embedding=network)


STACKS = {
    **{
        memory: lambda memory=memory: fd.Repeat(KEY, step, 3, memory=memory)
        for memory in ("store", "checkpoint", "invert")
    },
    "embedded": lambda: embedded(KEY),
    "conditioned": lambda: fd.Conditioned(embedded(KEY), jnp.ones((3, 5, 2))),
}


def value(layer):
    keys = jax.random.split(KEY, 2)
    high = jax.random.normal(keys[0], (3, *layer.event_shape))
    error = jax.random.uniform(keys[1], high.shape, minval=-1.0, maxval=1.0)
    return Compensated(high, 2.0**-26 * high * error)  # so small that the sum rounds to `high`


def context_of(layer):
    return None if layer.context_shape is None else jnp.ones((3, *layer.context_shape))


@jax.jit
def there(layer, x, context):
    return layer.forward_and_log_det(x, context)


@jax.jit
def back(layer, y, context):
    return layer.inverse_and_log_det(y, context)


def exact(x):
    return np.asarray(x.high, np.float64) + np.asarray(x.low, np.float64)


def assert_undone(layer):
    x, context = value(layer), context_of(layer)
    y, _ = there(layer, x, context)
    returned, _ = back(layer, y, context)
    error = np.abs(exact(returned) - exact(x)).max()
    assert error <= COMPENSATED_LAYER_F32 * np.abs(exact(x)).max()
    # The same map as on arrays.
    plain, _ = there(layer, x.high, context)
    np.testing.assert_allclose(y.high, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_a_layer_is_undone(name):
    layer = table.build(name)
    assert layer._carries_errors
    assert_undone(layer)


@pytest.mark.parametrize("name", STACKS)
def test_a_composition_is_undone(name):
    assert_undone(table.perturb(KEY, STACKS[name](), 0.1))


@pytest.mark.parametrize("name", ROUNDED)
def test_other_layers_get_rounded_values(name):
    layer = table.build(name)
    x = value(layer)
    y, log_det = layer.forward_and_log_det(x)
    plain, plain_log_det = layer.forward_and_log_det(x.high)
    np.testing.assert_array_equal(y.high, plain)
    np.testing.assert_array_equal(log_det, plain_log_det)
    assert isinstance(y, Compensated) and not y.low.any()


def test_a_spline_coupling_carries_what_it_keeps():
    layer = fd.ConvCoupling(KEY, (2, 2, 4), transformer=table.SPLINE, hidden_channels=4)
    x = value(layer)
    y, _ = layer.forward_and_log_det(x)
    np.testing.assert_array_equal(y.low[..., :2], x.low[..., :2])
    assert not y.low[..., 2:].any()


def test_authors_of_subclasses_need_not_know():
    class Doubled(fd.ActNorm):
        def forward_and_log_det(self, x, context=None):
            return 2.0 * x, jnp.log(2.0) * x[..., 0].size

        def inverse_and_log_det(self, y, context=None):
            return 0.5 * y, -jnp.log(2.0) * y[..., 0].size

    class Plain:
        def forward(self, x, params):
            return 2.0 * x, jnp.full(x.shape, jnp.log(2.0))

        def inverse(self, y, params):
            return 0.5 * y, jnp.full(y.shape, -jnp.log(2.0))

    class DoubledTransformer(Plain, Affine):
        pass

    x = compensated(jnp.ones((3, 2, 2, 2)))
    coupling = fd.ConvCoupling(KEY, (2, 2, 2), transformer=DoubledTransformer(), hidden_channels=4)
    for layer in (Doubled((2, 2, 2)), coupling):
        y, _ = layer.forward_and_log_det(x)
        np.testing.assert_array_equal(y.high[..., 1], 2.0)
    assert fd.ActNorm((2,))._carries_errors and Affine()._carries_errors
