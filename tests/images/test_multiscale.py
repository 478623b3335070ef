"""The layout of a MultiScale's latents, and what does not fit."""

import jax
import numpy as np
import pytest

import flowdists as fd
from tests import table
from tests.draws import drawn, normal
from tests.tolerances import AGREE_F32


def squeezes(*shapes):
    return fd.MultiScale([fd.Inverse(fd.Squeeze(shape)) for shape in shapes])


def test_latents_are_the_pixels_set_aside_scale_by_scale():
    """Of 8x8x1, 4x4 blocks' lower halves are fine latents, and their upper halves coarse ones."""
    layer = squeezes((8, 8, 1), (4, 4, 2))
    x = np.arange(64.0, dtype=np.float32).reshape(8, 8, 1)

    @jax.jit
    def run(x):
        z, log_det = layer.inverse_and_log_det(x)
        pyramid = layer.pyramid(z)
        return z, log_det, pyramid, layer.forward(z), layer.flatten(pyramid)

    z, log_det, (fine, coarse), back, again = jax.tree.map(np.asarray, run(x))
    np.testing.assert_array_equal(fine[1, 2], [x[3, 4, 0], x[3, 5, 0]])
    np.testing.assert_array_equal(coarse[0, 1].reshape(2, 2, 2), x[:4:2, 4:].reshape(2, 2, 2))
    assert log_det == 0
    np.testing.assert_array_equal(back, x)
    np.testing.assert_array_equal(again, z)


def test_an_odd_number_of_channels():
    layer = fd.MultiScale([fd.ActNorm((2, 2, 3)), fd.ActNorm((2, 2, 1))])
    assert layer.latent_shapes == ((2, 2, 2), (2, 2, 1)) and layer.event_shape == (12,)
    z = normal(0, (3, 12))
    np.testing.assert_array_equal(jax.jit(lambda z: layer.inverse(layer.forward(z)))(z), z)


def test_data_init_in_both_directions():
    layer = fd.MultiScale([fd.ActNorm((2, 2, 2)), fd.ActNorm((2, 2, 1))])

    @jax.jit
    def init(value):
        turned, out = fd.Inverse(layer).data_init(value)
        coarse = turned.bijector.scales[1].forward(value[:, 4:].reshape(50, 2, 2, 1))
        return turned, out, turned.bijector.forward(value), coarse

    turned, *results = init(3.0 + 2.0 * np.asarray(normal(0, (50, 8))))
    out, forward, kept = map(np.asarray, results)
    # Not to the last digit: only evaluation carries rounding errors along.
    np.testing.assert_allclose(out, forward, rtol=1e-5, atol=AGREE_F32)
    np.testing.assert_allclose((kept.mean(), kept.std()), (0.0, 1.0), atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1.0, atol=1e-5)
    assert turned.bijector.scales[0].event_shape == (2, 2, 2)


def test_scales_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`scales` must hold at least one scale"):
        fd.MultiScale([])
    with pytest.raises(
        ValueError, match=r"`scales\[1\]` takes images of shape \(4, 4, 4\).*4, 2\)"
    ):
        squeezes((8, 8, 1), (4, 4, 4))
    with pytest.raises(ValueError, match=r"`scales\[0\]` must have at least 2 channels"):
        fd.MultiScale([fd.ActNorm((2, 2, 1)), fd.ActNorm((2, 2, 1))])
    priors = [fd.TopPrior((2, 2, n), context_shape=(n,)) for n in (2, 1)]
    with pytest.raises(ValueError, match=r"agree on one context shape, got \[\(1,\), \(2,\)\]"):
        fd.MultiScale(priors)


def test_latents_that_do_not_fit_are_refused():
    layer = squeezes((8, 8, 1), (4, 4, 2))
    fine, coarse = np.zeros((5, 4, 4, 2)), np.zeros((5, 2, 2, 8))
    with pytest.raises(ValueError, match="`latents` must be a sequence of 2 arrays"):
        layer.flatten([fine])
    with pytest.raises(ValueError, match=r"`latents\[0\]` has shape \(5, 2, 2, 8\), expected"):
        layer.flatten([coarse, fine])


@pytest.mark.parametrize("shape", [(3, 4, 1), (4, 3, 1)])
def test_squeezing_needs_sides_that_the_factor_divides(shape):
    with pytest.raises(ValueError, match="`factor` 2 must divide height and width"):
        fd.Squeeze(shape)


def test_the_support_of_layers_on_both_sides_of_an_image():
    images = drawn(table.EVERY["layer:multi_scale"].make)
    layers = [fd.Affine(np.zeros(16, np.float32), np.ones(16, np.float32)), images]
    flow = fd.Flow(fd.StandardUniform((16,)), fd.Chain([*layers, fd.PixelLogit((4, 4, 1))]))
    inside, outside = jax.jit(lambda x: (flow.support(x), flow.support(x + 2.0)))(
        flow.sample(jax.random.key(0), (3,))
    )
    np.testing.assert_array_equal(inside, [True] * 3)
    np.testing.assert_array_equal(outside, [False] * 3)
