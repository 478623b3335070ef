"""RealNVP for images: its density, its options and its start from data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import flowdists as fd
from tests.table import perturb
from tests.tolerances import AGREE_F32, LOG_DET_F64

KEY = jax.random.key(0)
SMALL = {"steps_per_scale": 2, "hidden_channels": 4}


def real_nvp(event_shape, **options):
    make = functools.partial(fd.RealNVPImage, event_shape=event_shape, **{**SMALL, **options})
    flow = jax.jit(make)(KEY)
    return flow.replace(bijector=perturb(KEY, flow.bijector, 0.1))


def test_density_is_the_normal_one_and_the_jacobians_determinant(x64):
    shape = (4, 4, 1)
    flow, x = real_nvp(shape, steps_per_scale=3), jax.random.normal(KEY, shape)

    @jax.jit
    def both(flow, x):
        to_latents = lambda x: flow.bijector.inverse(x.reshape(shape))
        matrix = jax.jacfwd(to_latents)(x.ravel())
        expected = norm.logpdf(to_latents(x.ravel())).sum() + jnp.linalg.slogdet(matrix)[1]
        return flow.log_prob(x), expected

    np.testing.assert_allclose(*both(flow, x), rtol=LOG_DET_F64)


def test_saved_and_loaded_with_a_context(tmp_path):
    flow = real_nvp((4, 4, 1), context_shape=(2,), memory="invert", residual=False)
    fd.save(tmp_path / "flow", flow)
    loaded = fd.load(tmp_path / "flow")
    assert jax.tree.structure(loaded.bijector) == jax.tree.structure(flow.bijector)
    pairs = zip(jax.tree.leaves(loaded), jax.tree.leaves(flow), strict=True)
    assert all(jnp.array_equal(a, b) for a, b in pairs)


def test_labels_are_one_hot_contexts():
    flow, labels = real_nvp((4, 4, 1), num_classes=3), jnp.array([2, 0, 1])
    x = jax.random.normal(KEY, (3, 4, 4, 1))
    given = jax.jit(lambda context: flow.condition(context).log_prob(x))
    by_label = given(labels)
    np.testing.assert_allclose(given(jax.nn.one_hot(labels, 3)), by_label, rtol=AGREE_F32)
    assert not jnp.isclose(given((labels + 1) % 3), by_label).any()
    with pytest.raises(ValueError, match=r"`context` must hold labels from 0 to 2.*3"):
        flow.condition(3)


def test_refused():
    pixels = jnp.zeros((2, 4, 4, 1), jnp.uint8)
    flow = real_nvp((4, 4, 1))
    for method in (flow.log_prob, flow.data_init):
        with pytest.raises(TypeError, match="floating-point dtype, got uint8"):
            method(pixels)
    with pytest.raises(ValueError, match=r"the nearest are \(4, 4, 1\) and \(8, 8, 1\)"):
        fd.RealNVPImage(KEY, (6, 6, 1), **SMALL)
