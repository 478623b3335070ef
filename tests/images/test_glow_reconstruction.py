"""Glow's images come back from their latents, through scales of 32 steps each, in grey levels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowdists as fd
from tests.draws import uniform
from tests.table import perturb
from tests.tolerances import RECONSTRUCTION_F32, RECONSTRUCTION_TRAINED_F32, ROUND_TRIP_F64

KEY = jax.random.key(0)
GLOW = functools.partial(fd.Glow, event_shape=(8, 8, 3), hidden_channels=16)


# There and back are two programs, as for a user.
@jax.jit
def to_latents(layer, x):
    return layer.inverse(x)


@jax.jit
def to_images(layer, z):
    return layer.forward(z)


def largest_error(flow, x):
    """In grey levels of 256."""
    back = to_images(flow.bijector, to_latents(flow.bijector, x))
    return 256 * np.abs(np.asarray(back) - np.asarray(x)).max()


@functools.partial(jax.jit, static_argnums=0)
def constructed(num_scales, key):
    """Jitted whole, also a test against a deadlock of the decompositions in it."""
    return GLOW(key, num_scales=num_scales)


@pytest.fixture(scope="module")
def known():
    """Images, and flows of two scales from them: from their start, and with moved parameters."""
    x, start = uniform(1, (16, 8, 8, 3)), constructed(2, KEY)
    moved = start.replace(bijector=perturb(KEY, start.bijector, 0.02))
    init = jax.jit(lambda flow, x: flow.data_init(x))
    return x, {"start": init(start, x), "moved": init(moved, x)}


@pytest.fixture
def optimized():
    """Compiled as users compile: without optimizations no product is contracted into a sum."""
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("name", ["start", "moved"])
def test_with_normalizations_from_the_data(name, known, optimized):
    x, flows = known
    assert largest_error(flows[name], x) < RECONSTRUCTION_F32


@pytest.mark.slow
@pytest.mark.heavy
def test_after_training(data_dir, request):
    """On natural images, of which those of the strongest contrast lose the most digits."""
    with np.load(data_dir / "images" / "bsds_rgb16.npz") as file:
        train, test = (file[name][:, :8, :8] for name in ("train", "test"))
    flow, history = fd.fit(
        KEY,
        constructed(3, KEY),
        train[:6400],
        validation=test[:250],
        transform=fd.dequantize,
        batch_size=64,
        max_epochs=2,
    )
    assert history.train[-1] < history.train[0]
    levels = test[:1000]
    x = fd.dequantize(jax.random.key(1), levels)
    assert largest_error(flow, x) < RECONSTRUCTION_TRAINED_F32
    z = to_latents(flow.bijector, fd.images.from_uint8(levels))
    np.testing.assert_array_equal(fd.to_uint8(to_images(flow.bijector, z)), levels)

    request.getfixturevalue("x64")
    flow, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (flow, x))
    assert largest_error(flow, x) < ROUND_TRIP_F64
