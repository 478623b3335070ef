"""Convolutions against XLA's own, and the convolutional conditioners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowdists as fd
from flowdists.networks import Conv
from tests.table import perturb
from tests.tolerances import AGREE_BFLOAT16, LOG_DET_F64, ROUND_TRIP_F32

KEY = jax.random.key(0)
NETS = {
    "plain": lambda **options: fd.ConvNet(KEY, 2, 3, hidden_channels=8, **options),
    "residual": lambda **options: fd.ResidualConvNet(KEY, 2, 3, hidden_channels=8, **options),
}
networks = pytest.mark.parametrize("name", sorted(NETS))


def make(name, **options):
    return perturb(KEY, NETS[name](**options), 0.1)


def reference(x, kernel):
    flat = x.reshape(-1, *x.shape[-3:])
    layout = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(flat, kernel, (1, 1), "SAME", dimension_numbers=layout)
    return out.reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("channels", [(2, 3), (3, 3), (3, 2)])
def test_conv_is_xlas(size, channels, x64):
    """With its gradients, for any batch rank and for images smaller than the kernel."""
    layer = perturb(KEY, Conv(KEY, *channels, size=size))
    for shape in [(4, 5), (2, 4, 3), (2, 3, 1, 4)]:
        x = jax.random.normal(KEY, (*shape, channels[0]))
        weights = jax.random.normal(jax.random.key(1), (*shape, channels[1]))
        ours = lambda layer, x, weights=weights: (layer(x) * weights).sum()
        xlas = lambda layer, x, weights=weights: (
            (reference(x, layer.kernel) + layer.bias) * weights
        ).sum()
        given, expected = (
            jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(layer, x) for f in (ours, xlas)
        )
        assert layer(x).shape == weights.shape
        pairs = zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=LOG_DET_F64, atol=LOG_DET_F64)


@pytest.mark.parametrize("size", [0, 2, 4])
def test_conv_refuses_kernels_without_a_center(size):
    with pytest.raises(ValueError, match="`size` must be"):
        Conv(KEY, 1, 2, size=size)


@networks
def test_bfloat16_inside_float32_outside(name):
    full, half = make(name, context_size=2), make(name, context_size=2, dtype="bfloat16")
    x, context = jax.random.normal(KEY, (3, 4, 4, 2)), jnp.ones((3, 2))
    expected, given = full(x, context), half(x, context)
    assert given.dtype == jnp.float32
    assert jnp.abs(given - expected).max() <= AGREE_BFLOAT16 * jnp.abs(expected).max()
    assert not jnp.array_equal(given, expected)
    gradients = jax.grad(lambda net, x, c: net(x, c).sum(), argnums=(0, 1, 2))(half, x, context)
    for leaf in jax.tree.leaves(gradients):
        assert leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all() and (leaf != 0).any()


@networks
def test_contexts_broadcast(name):
    net = make(name, context_size=2)
    x = jax.random.normal(KEY, (5, 3, 4, 4, 2))
    contexts = jax.random.normal(KEY, (3, 2))
    full = net(x, jnp.broadcast_to(contexts, (5, 3, 2)))
    np.testing.assert_allclose(net(x, contexts), full, rtol=ROUND_TRIP_F32, atol=1e-6)
    assert net(x[0, 0], contexts).shape == (3, 4, 4, 3)
    assert not jnp.allclose(net(x, contexts), net(x, contexts[::-1]))


@networks
def test_a_new_network_is_zero(name):
    x = jax.random.normal(KEY, (3, 4, 4, 2))
    assert (NETS[name](context_size=2)(x, jnp.ones(2)) == 0).all()


def test_data_init_normalizes_every_hidden_layer():
    net = make("plain", normalize=True, context_size=2, dtype="bfloat16")
    x, context = jax.random.normal(KEY, (16, 4, 4, 2)), jax.random.normal(KEY, (16, 2))
    start = jax.jit(lambda net, x, c: net.data_init(x, c))(net, x, context)
    assert jax.tree.structure(start) == jax.tree.structure(net)
    h = start.input_layer(x) + (context @ start.context_weight)[:, None, None]
    for norm in start.norms:
        h = norm(h)
        np.testing.assert_allclose(h.mean((0, 1, 2)), 0.0, atol=1e-3)
        np.testing.assert_allclose(h.std((0, 1, 2)), 1.0, atol=1e-3)
        h = start.hidden_layer(jax.nn.relu(h))
    plain = make("plain")
    assert plain.data_init(x) is plain


def test_a_dtype_that_is_none_is_refused():
    for dtype in ("int8", "float33"):
        with pytest.raises(ValueError, match="`dtype` must be a floating-point dtype"):
            fd.ConvNet(KEY, 1, 1, dtype=dtype)
