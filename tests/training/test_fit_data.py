"""`fit`: initialization from the data, and images that are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowdists import ActNorm, Chain, Flow, Glow, PixelLogit, StandardNormal
from flowdists.images import dequantize
from tests.training.problems import FROZEN, gaussian, quick, same


def test_data_init(key):
    flow = Flow(StandardNormal((2,)), ActNorm((2,)))
    x = gaussian()
    initialized, _ = quick(key, flow, x, **FROZEN)
    z = np.asarray(jax.jit(initialized.bijector.inverse)(x))
    np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-3)
    np.testing.assert_allclose(z.std(0), 1.0, atol=1e-3)
    untouched, _ = quick(key, flow, x, data_init=False, **FROZEN)
    assert same(untouched, flow)


class Seen(Exception):
    """Ends a fit at the initialization, which is all that the test needs."""


@pytest.mark.parametrize(
    ("event_shape", "rows", "batch_size", "expected"),
    [
        ((2,), 5000, 256, 4096),
        ((2,), 100, 256, 100),
        ((64, 64, 3), 200, 16, 170),  # 2**21 elements
        ((64, 64, 3), 200, 180, 180),
    ],
)
def test_data_init_takes_as_many_rows_as_fit(
    event_shape, rows, batch_size, expected, key, monkeypatch
):
    def spy(layer, value, context=None, direction="inverse"):
        raise Seen(len(value))

    monkeypatch.setattr(ActNorm, "data_init", spy)
    flow = Flow(StandardNormal(event_shape), ActNorm(event_shape))
    x = np.zeros((rows, *event_shape), np.float32)
    with pytest.raises(Seen) as seen:
        quick(key, flow, x, batch_size=batch_size, validation=0.0)
    assert seen.value.args == (expected,)


SHAPE = (4, 4, 1)
IMAGES = np.arange(32, dtype=np.uint8).reshape(2, *SHAPE)
LEVELS = IMAGES.astype(np.float32)


def glow(key, **options):
    small = {"num_scales": 1, "steps_per_scale": 1, "hidden_channels": 4}
    return Glow(key, SHAPE, **small, **options)


def test_images_that_are_levels_are_refused(key):
    flow = jax.eval_shape(glow, key)  # for all is refused before its parameters are looked at
    conditional = jax.eval_shape(functools.partial(glow, context_shape=(1,)), key)
    refused = functools.partial(pytest.raises, ValueError)
    for given in (flow, flow.replace(bijector=Chain([flow.bijector, PixelLogit(SHAPE)]))):
        with refused(match="`x` must hold continuous pixels.*up to 31; keep .*transform=flowdists"):
            quick(key, given, LEVELS)
    with refused(match="`x` must hold continuous pixels"):
        quick(key, conditional, LEVELS, context=np.ones((2, 1)))
    with refused(match="`validation x` must hold continuous pixels"):
        quick(key, flow, LEVELS / 256 - 0.5, validation=LEVELS)
    with refused(match="`a batch's x` must hold continuous pixels"):
        quick(key, flow, iter([LEVELS]))
    with pytest.raises(TypeError, match="got uint8; keep images of levels 0 to 255 as uint8"):
        quick(key, flow, IMAGES)


def test_transformed_images_and_other_arrays_are_no_levels(key):
    def loss(flow, x, context, weights):
        return jnp.square(x).mean()  # the gradient of a density would take long to compile

    options = {"loss": loss, "data_init": False, "validation": None, "max_epochs": 1}
    quick(key, jax.jit(glow)(key), IMAGES, transform=dequantize, **options)
    quick(key, Flow(StandardNormal(SHAPE), ActNorm(SHAPE)), LEVELS, **options)
