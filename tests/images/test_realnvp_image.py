"""RealNVP for images: its density, its options and its start from data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import flowdists as fd
from tests.draws import drawn, normal
from tests.tolerances import LOG_DET_F64

KEY = jax.random.key(0)
SMALL = {"steps_per_scale": 2, "hidden_channels": 4}


def real_nvp(event_shape, **options):
    make = functools.partial(fd.RealNVPImage, event_shape=event_shape, **{**SMALL, **options})
    return drawn(make)


def test_density_is_the_normal_one_and_the_jacobians_determinant(x64):
    shape = (4, 4, 1)
    flow = real_nvp(shape, num_scales=2, steps_per_scale=1, residual=False)

    @jax.jit
    def both(flow, x):
        to_latents = lambda x: 2 * (flow.bijector.inverse(x.reshape(shape)),)
        matrix, z = jax.jacfwd(to_latents, has_aux=True)(x.ravel())
        return flow.log_prob(x), norm.logpdf(z).sum() + jnp.linalg.slogdet(matrix)[1]

    np.testing.assert_allclose(*both(flow, normal(0, shape)), rtol=LOG_DET_F64)


def test_saved_and_loaded_with_a_context(tmp_path):
    flow = real_nvp((4, 4, 1), context_shape=(2,), memory="invert", residual=False)
    fd.save(tmp_path / "flow", flow)
    loaded = fd.load(tmp_path / "flow")
    assert jax.tree.structure(loaded.bijector) == jax.tree.structure(flow.bijector)
    pairs = zip(jax.tree.leaves(loaded), jax.tree.leaves(flow), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_refused():
    pixels = np.zeros((2, 4, 4, 1), np.uint8)
    flow = real_nvp((4, 4, 1))
    for method in (flow.log_prob, flow.data_init):
        with pytest.raises(TypeError, match="floating-point dtype, got uint8"):
            method(pixels)
    with pytest.raises(ValueError, match=r"the nearest are \(4, 4, 1\) and \(8, 8, 1\)"):
        fd.RealNVPImage(KEY, (6, 6, 1), **SMALL)
