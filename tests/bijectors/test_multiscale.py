"""The layout of a MultiScale's latents, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowdists as fd
from tests.tolerances import AGREE_F32

KEY = jax.random.key(0)


def squeezes(*shapes):
    return fd.MultiScale([fd.Inverse(fd.Squeeze(shape)) for shape in shapes])


def test_latents_are_the_pixels_set_aside_scale_by_scale():
    """Of 8x8x1, 4x4 blocks' lower halves are fine latents, and their upper halves coarse ones."""
    layer = squeezes((8, 8, 1), (4, 4, 2))
    x = jnp.arange(64.0).reshape(8, 8, 1)
    z, log_det = layer.inverse_and_log_det(x)
    fine, coarse = layer.pyramid(z)
    np.testing.assert_array_equal(fine[1, 2], [x[3, 4, 0], x[3, 5, 0]])
    np.testing.assert_array_equal(coarse[0, 1].reshape(2, 2, 2), x[:4:2, 4:].reshape(2, 2, 2))
    assert log_det == 0
    assert jnp.array_equal(layer.forward(z), x)
    assert jnp.array_equal(layer.flatten(layer.pyramid(z)), z)


def test_an_odd_number_of_channels():
    layer = fd.MultiScale([fd.ActNorm((2, 2, 3)), fd.ActNorm((2, 2, 1))])
    assert layer.latent_shapes == ((2, 2, 2), (2, 2, 1)) and layer.event_shape == (12,)
    z = jax.random.normal(KEY, (3, 12))
    np.testing.assert_array_equal(layer.inverse(layer.forward(z)), z)


def test_data_init_in_both_directions():
    layer = fd.MultiScale([fd.ActNorm((2, 2, 2)), fd.ActNorm((2, 2, 1))])
    value = 3.0 + 2.0 * jax.random.normal(KEY, (50, 8))
    turned, out = fd.Inverse(layer).data_init(value)
    # Not to the last digit: only evaluation carries rounding errors along.
    np.testing.assert_allclose(out, layer_forward(turned, value), rtol=1e-5, atol=AGREE_F32)
    fine, coarse = turned.bijector.scales
    kept = coarse.forward(value[:, 4:].reshape(50, 2, 2, 1))
    np.testing.assert_allclose((kept.mean(), kept.std()), (0.0, 1.0), atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1.0, atol=1e-5)
    assert fine.event_shape == (2, 2, 2)


def layer_forward(turned, value):
    return turned.bijector.forward(value)


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
    fine, coarse = layer.pyramid(jnp.zeros((5, 64)))
    with pytest.raises(ValueError, match="`latents` must hold 2 arrays"):
        layer.flatten([fine])
    with pytest.raises(ValueError, match=r"`latents\[0\]` has shape \(5, 2, 2, 8\), expected"):
        layer.flatten([coarse, fine])
