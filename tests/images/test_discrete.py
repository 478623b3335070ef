"""Discrete images as a NumPyro distribution, against masses known in closed form."""

import functools

import jax
import numpy as np
import numpyro
import optax
import pytest
from numpyro import infer
from scipy import special, stats

import flowdists as fd
from flowdists.images import DiscreteImages, image_log_prob
from tests.draws import drawn
from tests.images.known import (
    BITS,
    IMAGES,
    LEVELS,
    LOGITS,
    SHAPE,
    exact_normal_log_mass,
    histogram_flow,
    normal_flow,
)
from tests.tolerances import AGREE_F32, P_VALUE

KEY = jax.random.key(0)


@jax.jit
def log_masses(images):
    return images.log_prob(IMAGES)


@jax.jit
def draws_of(images):
    """Draws, whether they are in the support, and the draws of the density behind them."""
    draws = images.sample(jax.random.key(1), (4000,))
    return draws, images.support(draws), images.flow.sample(jax.random.key(1), (4000,))


def test_masses_are_those_in_closed_form():
    log_mass = log_masses(DiscreteImages(KEY, histogram_flow(), num_bits=BITS))
    expected = np.log(special.softmax(LOGITS))[LEVELS].sum((1, 2, 3))
    np.testing.assert_allclose(log_mass, expected, rtol=10 * AGREE_F32)


@pytest.mark.parametrize("make", [histogram_flow, normal_flow])
def test_draws_have_the_masses(make):
    images = DiscreteImages(KEY, make(), num_bits=BITS)
    draws, supported, x = map(np.asarray, draws_of(images))
    assert draws.dtype == np.uint8 and supported.all()
    assert not (draws & 63).any()  # two bits are left
    inside = np.ones(len(draws), bool)
    if make is normal_flow:  # without its mass beyond the scale, which draws move to the ends
        log_mass = exact_normal_log_mass(LEVELS)
        inside = (np.abs(x) <= 0.5).all((1, 2, 3))
    else:
        log_mass = np.asarray(log_masses(images), np.float64)
    index = (draws[inside] >> 6).reshape(-1, 2) @ np.array([4, 1])
    counts = np.bincount(index, minlength=len(LEVELS))
    mass = np.exp(log_mass)
    test = stats.chisquare(counts, mass / mass.sum() * counts.sum())
    assert test.pvalue > P_VALUE


def test_the_noise_is_that_of_the_key():
    flow, other_key = normal_flow(), jax.random.key(1)
    images = lambda key, **options: DiscreteImages(key, flow, num_bits=BITS, **options)
    scores, again, other = (np.asarray(log_masses(images(key))) for key in (KEY, KEY, other_key))
    np.testing.assert_array_equal(scores, again)
    same = jax.jit(functools.partial(image_log_prob, num_bits=BITS))(KEY, flow, IMAGES)
    np.testing.assert_allclose(scores, same, rtol=AGREE_F32)
    assert (other != scores).all()
    many = log_masses(images(KEY, num_samples=4000))
    np.testing.assert_allclose(many, exact_normal_log_mass(LEVELS), atol=0.1)


def test_a_model_observes_images_as_they_are():
    """Trained by SVI in minibatches, with fresh noise at every step."""
    start = normal_flow()

    def model(images):
        flow = fd.flow_module("flow", lambda key: start)
        with numpyro.plate("images", len(images), subsample_size=5):
            batch = numpyro.subsample(images, len(SHAPE))
            density = DiscreteImages(numpyro.prng_key(), flow, num_bits=BITS)
            numpyro.sample("x", density, obs=batch)

    svi = infer.SVI(model, lambda images: None, optax.adam(1e-2), infer.Trace_ELBO())
    # All pixels black: far from where the normal density starts.
    result = svi.run(KEY, 300, np.zeros((20, *SHAPE), np.uint8), progress_bar=False)
    losses = np.asarray(result.losses)
    assert losses[-50:].mean() < 0.5 * losses[:50].mean()
    assert len(np.unique(losses[:10])) == 10


def test_survives_transformations():
    flow = drawn(lambda key: fd.RealNVP(key, SHAPE, context_shape=(4,), num_layers=2))
    flow = flow.condition(np.ones((3, 4), np.float32))
    images = DiscreteImages(KEY, flow, num_bits=BITS)
    assert images.batch_shape == (3,) and images.event_shape == SHAPE
    draws = jax.eval_shape(lambda images, key: images.sample(key, (2,)), images, KEY)
    scores = jax.eval_shape(lambda images, x: images.log_prob(x), images, draws)
    assert draws.shape == (2, 3, *SHAPE) and scores.shape == (2, 3)
    wide = DiscreteImages(KEY, normal_flow()).expand((7,))
    x = np.zeros((7, *SHAPE), np.uint8)
    assert jax.eval_shape(wide.log_prob, x).shape == (7,)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: DiscreteImages(KEY, fd.StandardNormal(SHAPE)), TypeError, "`flow` must be a Flow"),
        (lambda: DiscreteImages(0, normal_flow()), TypeError, "DiscreteImages: `key`"),
        (lambda: DiscreteImages(KEY, normal_flow(), num_bits=9), ValueError, "`num_bits`"),
        (lambda: DiscreteImages(KEY, normal_flow(), num_samples=0), ValueError, "`num_samples`"),
        (
            lambda: DiscreteImages(KEY, normal_flow()).log_prob(np.zeros(SHAPE)),
            TypeError,
            "`images` must be uint8",
        ),
        (
            lambda: DiscreteImages(KEY, normal_flow()).log_prob(np.zeros((2, 2, 1), np.uint8)),
            ValueError,
            r"`images`.*expected",
        ),
    ],
)
def test_misuse(make, error, match):
    with pytest.raises(error, match=match):
        make()
