"""Convolutions against XLA's own, and the convolutional conditioners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowdists as fd
from flowdists.images import Conv
from tests.draws import drawn, normal
from tests.tolerances import AGREE_BFLOAT16, LOG_DET_F64, ROUND_TRIP_F32

KEY = jax.random.key(0)
NETS = {"plain": fd.ConvNet, "residual": fd.ResidualConvNet}
networks = pytest.mark.parametrize("name", sorted(NETS))


def make(name, **options):
    return drawn(lambda key: NETS[name](key, 2, 3, hidden_channels=6, **options), 0.3)


def reference(x, kernel):
    flat = x.reshape(-1, *x.shape[-3:])
    layout = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(flat, kernel, (1, 1), "SAME", dimension_numbers=layout)
    return out.reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("channels", [(2, 3), (3, 3), (3, 2)])
def test_conv_is_xlas(size, channels, x64):
    """With its gradients, for any batch rank and for images smaller than the kernel."""
    layer = drawn(lambda key: Conv(key, *channels, size=size))
    shapes = [(4, 5), (2, 4, 3), (2, 3, 1, 4)]
    inputs = [normal(0, (*shape, channels[0])) for shape in shapes]
    weights = [normal(1, (*shape, channels[1])) for shape in shapes]

    def weighted(function):
        """The weighted sum of all results, with its gradients, and the results."""

        def total(layer, inputs):
            results = [function(layer, x) for x in inputs]
            return sum((y * w).sum() for y, w in zip(results, weights, strict=True)), results

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)

    ours = weighted(lambda layer, x: layer(x))
    xlas = weighted(lambda layer, x: reference(x, layer.kernel) + layer.bias)
    given, expected = jax.jit(lambda *args: (ours(*args), xlas(*args)))(layer, inputs)
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=LOG_DET_F64, atol=LOG_DET_F64)


@pytest.mark.parametrize("size", [0, 2, 4])
def test_conv_refuses_kernels_without_a_center(size):
    with pytest.raises(ValueError, match="`size` must be"):
        Conv(KEY, 1, 2, size=size)


@networks
def test_bfloat16_inside_float32_outside(name):
    full, half = make(name, context_size=2), make(name, context_size=2, dtype="bfloat16")

    @jax.jit
    def run(full, half, *args):
        gradient = jax.grad(lambda net, *args: net(*args).sum(), argnums=(0, 1, 2))
        return full(*args), half(*args), gradient(half, *args)

    results = run(full, half, normal(0, (3, 4, 4, 2)), np.ones((3, 2), np.float32))
    expected, given, gradients = jax.tree.map(np.asarray, results)
    assert given.dtype == np.float32
    assert np.abs(given - expected).max() <= AGREE_BFLOAT16 * np.abs(expected).max()
    assert not np.array_equal(given, expected)
    for leaf in jax.tree.leaves(gradients):
        assert leaf.dtype == np.float32 and np.isfinite(leaf).all() and (leaf != 0).any()


@networks
def test_contexts_broadcast(name):
    net, x, contexts = make(name, context_size=2), normal(0, (5, 3, 4, 4, 2)), normal(1, (3, 2))

    @jax.jit
    def run(x, c):
        return net(x, jnp.broadcast_to(c, (5, 3, 2))), net(x, c), net(x, c[::-1]), net(x[0, 0], c)

    full, given, exchanged, single = map(np.asarray, run(x, contexts))
    np.testing.assert_allclose(given, full, rtol=ROUND_TRIP_F32, atol=1e-6)
    assert not np.allclose(given, exchanged)
    np.testing.assert_allclose(single[0], given[0, 0], rtol=ROUND_TRIP_F32, atol=1e-6)


@networks
def test_a_new_network_is_zero(name):
    new = lambda key, x: NETS[name](key, 2, 3, hidden_channels=6, context_size=2)(x, jnp.ones(2))
    assert not np.any(jax.jit(new)(KEY, normal(0, (3, 4, 4, 2))))


def test_residual_blocks_add_to_what_they_get():
    net, x = make("residual"), normal(0, (3, 4, 4, 2))
    assert len(net.blocks) == 2
    net.blocks = tuple(
        (first, jax.tree.map(jnp.zeros_like, second)) for first, second in net.blocks
    )
    plain = lambda net, x: net.output_layer(jax.nn.relu(net.input_layer(x)))
    given, expected = jax.jit(lambda net, x: (net(x), plain(net, x)))(net, x)
    np.testing.assert_allclose(given, expected, rtol=ROUND_TRIP_F32, atol=1e-6)


def test_data_init_normalizes_every_hidden_layer():
    net = make("plain", normalize=True, context_size=2, dtype="bfloat16")

    @jax.jit
    def init(net, x, context):
        start, normalized = net.data_init(x, context), []
        h = start.input_layer(x) + (context @ start.context_weight)[:, None, None]
        for norm in start.norms:
            normalized.append(norm(h))
            h = start.hidden_layer(jax.nn.relu(normalized[-1]))
        return start, normalized

    x, context = normal(0, (16, 4, 4, 2)), normal(1, (16, 2))
    start, normalized = jax.tree.map(np.asarray, init(net, x, context))
    assert jax.tree.structure(start) == jax.tree.structure(net) and len(normalized) == 2
    for h in normalized:
        np.testing.assert_allclose(h.mean((0, 1, 2)), 0.0, atol=1e-3)
        np.testing.assert_allclose(h.std((0, 1, 2)), 1.0, atol=1e-3)
    plain = make("plain")
    assert plain.data_init(x) is plain


def test_a_dtype_that_is_none_is_refused():
    for dtype in ("int8", "float33"):
        with pytest.raises(ValueError, match="`dtype` must be a floating-point dtype"):
            fd.ConvNet(KEY, 1, 1, dtype=dtype)
