"""Training of a density of images together with the noise that dequantizes them."""

import functools

import jax
import numpy as np
import optax
import pytest

import flowdists as fd
from flowdists.images import (
    VariationalDequantizer,
    dequantize,
    fit_dequantized,
    image_log_prob,
)
from tests.draws import drawn
from tests.images.known import SHAPE
from tests.tolerances import STANDARD_ERRORS

KEY = jax.random.key(0)
OPTIONS = {"optimizer": optax.adam(3e-3), "batch_size": 100, "max_epochs": 40, "progress": False}


def structured(rows):
    """Images of two levels per pixel, the second equal to the first nine times in ten."""
    first, differs = np.random.default_rng(0).random((2, rows)) < np.array([[0.3], [0.1]])
    return (128 * np.stack([first, first ^ differs], 1)).reshape(-1, *SHAPE).astype(np.uint8)


def make_flow(key, num_layers=4, width=16, **options):
    return fd.RealNVP(key, SHAPE, num_layers=num_layers, hidden_sizes=(width,), **options)


def make_noise(key):
    return VariationalDequantizer(make_flow(key, num_layers=2, context_shape=SHAPE))


@functools.cache
def trained():
    """A flow before training, and what becomes of it and of uniform noise."""
    images = structured(1000)
    flow, noise = jax.jit(lambda key: (make_flow(key), make_noise(key)))(KEY)
    fitted = fit_dequantized(
        KEY, flow, noise, images, num_bits=1, validation=images[:200], **OPTIONS
    )
    return flow, fitted


@jax.jit
def bounds(flow, dequantizer=None):
    """Of the training images, of 20 samples each."""
    return image_log_prob(
        KEY, flow, structured(1000), num_bits=1, dequantizer=dequantizer, num_samples=20
    )


def test_flow_and_noise_train_together():
    """Each bin's uniform noise is a square; learned noise fits what the flow can make of it."""
    start, fitted = trained()
    assert fitted.flow.recipe == start.recipe
    bound = np.mean(bounds(fitted.flow, fitted.dequantizer))
    assert bound > np.mean(bounds(fitted.flow)) + 0.02
    assert bound > np.mean(bounds(start)) + 0.02


def test_losses_are_bounds():
    _, fitted = trained()
    images = np.tile(structured(1000), (5, 1, 1, 1))
    single = np.asarray(
        jax.jit(functools.partial(image_log_prob, num_bits=1))(
            KEY, fitted.flow, images, dequantizer=fitted.dequantizer
        )
    )
    history = fitted.history
    reached = -history.validation[history.best_epoch] - 2 * np.log(2)
    assert abs(single.mean() - reached) < STANDARD_ERRORS * single.std() / 200**0.5


@pytest.mark.slow
def test_learned_noise_trains_better_than_uniform_noise():
    start, fitted = trained()
    images, uniform = structured(1000), functools.partial(dequantize, num_bits=1)
    plain = fd.fit(KEY, start, images, transform=uniform, validation=images[:200], **OPTIONS)
    of_plain = np.mean(bounds(plain.flow))
    assert np.mean(bounds(fitted.flow, fitted.dequantizer)) > of_plain + 0.02


def test_joint_training_of_conditional_flows_and_its_errors():
    images, labels = structured(20), np.arange(20) % 3
    start = drawn(functools.partial(make_flow, num_layers=2, width=4, num_classes=3))
    noise = drawn(make_noise)
    run = functools.partial(fit_dequantized, KEY, max_epochs=1, progress=False, validation=0.0)
    destroy = optax.stateless(lambda updates, params: jax.tree.map(lambda u: u / 0, updates))
    with pytest.raises(fd.NonFiniteLossError) as error:
        run(start, noise, images, context=labels, optimizer=destroy)
    result = error.value.result
    assert isinstance(result, fd.images.DequantizedFit)
    assert jax.tree.structure(result.flow) == jax.tree.structure(start)
    assert jax.tree.structure(result.dequantizer) == jax.tree.structure(noise)
    with pytest.raises(TypeError, match="must be a VariationalDequantizer, got NoneType"):
        run(start, None, images)
    with pytest.raises(ValueError, match=r"noise of the shape \(2,\) .* got \(1, 2, 1\)"):
        run(drawn(lambda key: fd.MAF(key, (2,), hidden_sizes=(4,))), noise, images)
    with pytest.raises(TypeError, match="must be uint8, got float32"):
        run(start, noise, np.float32(images / 255), context=labels)
    with pytest.raises(ValueError, match="`num_bits` must be an int from 1 to 8, got 9"):
        run(start, noise, images, num_bits=9)
