"""Layers of image flows on values with their rounding errors: undone beyond single precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowdists as fd
from flowdists._compensated import Compensated, compensated
from flowdists.transformers import Affine, RationalQuadratic
from tests import table
from tests.draws import drawn
from tests.tolerances import COMPENSATED_LAYER_F32

EXACT = [
    "layer:act_norm_image",
    "layer:conv_1x1",
    "layer:conv_coupling",
    "layer:conv_coupling_additive",
    "layer:conv_coupling_checkerboard",
    "layer:conv_coupling_flipped",
    "layer:split_prior",
    "layer:squeeze",
    "layer:top_prior",
    "conditional:conv_coupling",
    "conditional:split_prior",
    "conditional:top_prior",
]
ROUNDED = ["layer:lu_linear", "layer:autoregressive"]


def step(key, context_shape=None):
    """A layer of each kind, one of them in a chain of its own."""
    coupling = fd.ConvCoupling(key, (4, 4, 2), hidden_channels=4, context_shape=context_shape)
    linear = fd.Inverse(fd.InvertibleConv1x1(key, (4, 4, 2)))
    return fd.Chain([fd.Inverse(coupling), fd.Chain([linear, fd.ActNorm((4, 4, 2))])])


def embedded(key):
    network = fd.DeepSets(key, 2, 3, hidden_sizes=(4,))
    return fd.Embedded(step(key, context_shape=(3,)), (5, 2), embedding=network)


STACKS = {
    "store": lambda key: fd.Repeat(key, step, 3),
    "invert": lambda key: fd.Repeat(key, step, 3, memory="invert"),
    "conditioned": lambda key: fd.Conditioned(embedded(key), jnp.ones((3, 5, 2))),
}


def value(layer):
    draws = np.random.default_rng(0)
    high = np.float32(draws.normal(size=(3, *layer.event_shape)))
    error = draws.uniform(-1.0, 1.0, high.shape)
    return Compensated(high, np.float32(2.0**-26 * high * error))  # the sum rounds to `high`


@jax.jit
def there(layer, x):
    return layer.forward(x)


@jax.jit
def back(layer, y):
    return layer.inverse(y)


def exact(x):
    return np.asarray(x.high, np.float64) + np.asarray(x.low, np.float64)


def assert_undone(layer):
    x = value(layer)
    y, plain = there(layer, x), there(layer, x.high)
    error = np.abs(exact(back(layer, y)) - exact(x)).max()
    assert error <= COMPENSATED_LAYER_F32 * np.abs(exact(x)).max()
    np.testing.assert_allclose(y.high, plain, rtol=1e-4, atol=1e-5)  # the same map


@pytest.mark.parametrize("name", EXACT)
def test_a_layer_is_undone(name):
    layer = table.build(name)
    assert layer._carries_errors
    if layer.context_shape is not None:
        layer = fd.Conditioned(layer, jnp.ones((3, *layer.context_shape)))
    assert_undone(layer)


@pytest.mark.parametrize("name", STACKS)
def test_a_composition_is_undone(name):
    assert_undone(drawn(STACKS[name]))


@pytest.mark.parametrize("name", ROUNDED)
def test_other_layers_get_rounded_values(name):
    layer = table.build(name)
    both = jax.jit(lambda layer, x: [layer.forward_and_log_det(v) for v in (x, x.high)])
    (y, log_det), (plain, plain_log_det) = both(layer, value(layer))
    np.testing.assert_array_equal(y.high, plain)
    np.testing.assert_array_equal(log_det, plain_log_det)
    assert isinstance(y, Compensated) and not np.any(y.low)


def test_a_spline_coupling_carries_what_it_keeps():
    spline = RationalQuadratic(num_bins=3, bound=2.5)
    make = lambda key: fd.ConvCoupling(key, (2, 2, 4), transformer=spline, hidden_channels=4)
    x, layer = value(drawn(make)), drawn(make)
    y = jax.tree.map(np.asarray, jax.jit(lambda layer, x: layer.forward(x))(layer, x))
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

    def make(key):
        own = {"transformer": DoubledTransformer(), "hidden_channels": 4}
        return Doubled((2, 2, 2)), fd.ConvCoupling(key, (2, 2, 2), **own)

    x = compensated(np.ones((3, 2, 2, 2), np.float32))
    run = jax.jit(lambda layers, x: [layer.forward(x).high for layer in layers])
    for y in run(drawn(make), x):
        np.testing.assert_array_equal(np.asarray(y)[..., 1], 2.0)
    assert fd.ActNorm((2,))._carries_errors and Affine()._carries_errors
