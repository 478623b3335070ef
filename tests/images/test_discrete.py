"""Discrete images as a NumPyro distribution, against masses known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest
from numpyro import infer
from scipy import stats

import flowdists as fd
from flowdists.images import DiscreteImages, image_log_prob
from tests import table
from tests.images.known import (
    BITS,
    IMAGES,
    LEVELS,
    SHAPE,
    exact_normal_log_mass,
    histogram_flow,
    normal_flow,
)
from tests.tolerances import AGREE_F32, P_VALUE

KEY = jax.random.key(0)


def test_masses_are_those_in_closed_form():
    images = DiscreteImages(histogram_flow(), KEY, num_bits=BITS)
    log_mass = images.log_prob(IMAGES)
    expected = np.asarray(jax.nn.log_softmax(images.flow.bijector.logits))[LEVELS].sum((1, 2, 3))
    np.testing.assert_allclose(log_mass, expected, rtol=10 * AGREE_F32)


@pytest.mark.parametrize("make", [histogram_flow, normal_flow])
def test_draws_have_the_masses(make):
    images = DiscreteImages(make(), KEY, num_bits=BITS)
    draws = np.asarray(images.sample(jax.random.key(1), (4000,)))
    assert draws.dtype == np.uint8 and bool(images.support(draws).all())
    assert not (draws & 63).any()  # two bits are left
    inside = np.ones(len(draws), bool)
    if make is normal_flow:  # without its mass beyond the scale, which draws move to the ends
        log_mass = exact_normal_log_mass(LEVELS)
        x = np.asarray(images.flow.sample(jax.random.key(1), (4000,)))
        inside = (np.abs(x) <= 0.5).all((1, 2, 3))
    else:
        log_mass = np.asarray(images.log_prob(IMAGES), np.float64)
    index = (draws[inside] >> 6).reshape(-1, 2) @ np.array([4, 1])
    counts = np.bincount(index, minlength=len(LEVELS))
    mass = np.exp(log_mass)
    test = stats.chisquare(counts, mass / mass.sum() * counts.sum())
    assert test.pvalue > P_VALUE


def test_the_noise_is_that_of_the_key():
    flow = normal_flow()
    scores = [DiscreteImages(flow, key, num_bits=BITS).log_prob(IMAGES) for key in (KEY, KEY)]
    np.testing.assert_array_equal(*scores)
    np.testing.assert_array_equal(scores[0], image_log_prob(KEY, flow, IMAGES, num_bits=BITS))
    other = DiscreteImages(flow, jax.random.key(1), num_bits=BITS).log_prob(IMAGES)
    assert (other != scores[0]).all()
    many = DiscreteImages(flow, KEY, num_bits=BITS, num_samples=4000).log_prob(IMAGES)
    np.testing.assert_allclose(many, exact_normal_log_mass(LEVELS), atol=0.1)


def test_a_model_observes_images_as_they_are():
    """Trained by SVI in minibatches, with fresh noise at every step."""
    start = normal_flow()

    def model(images):
        flow = fd.flow_module("flow", lambda key: start)
        with numpyro.plate("images", len(images), subsample_size=5):
            batch = numpyro.subsample(images, len(SHAPE))
            density = DiscreteImages(flow, numpyro.prng_key(), num_bits=BITS)
            numpyro.sample("x", density, obs=batch)

    svi = infer.SVI(model, lambda images: None, optax.adam(1e-2), infer.Trace_ELBO())
    # All pixels black: far from where the normal density starts.
    result = svi.run(KEY, 300, jnp.zeros((20, *SHAPE), jnp.uint8), progress_bar=False)
    assert result.losses[-50:].mean() < 0.5 * result.losses[:50].mean()
    assert len(jnp.unique(result.losses[:10])) == 10


def test_survives_transformations():
    context = jnp.ones((3, 4))
    flow = table.build_flow("real_nvp", SHAPE, context_shape=(4,)).condition(context)
    images = DiscreteImages(flow, KEY, num_bits=BITS)
    assert images.batch_shape == (3,) and images.event_shape == SHAPE
    draws = jax.jit(lambda images, key: images.sample(key, (2,)))(images, KEY)
    scores = jax.jit(lambda images, x: images.log_prob(x))(images, draws)
    assert draws.shape == (2, 3, *SHAPE) and scores.shape == (2, 3)
    wide = DiscreteImages(normal_flow(), KEY).expand((7,))
    assert wide.log_prob(jnp.zeros((7, *SHAPE), jnp.uint8)).shape == (7,)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: DiscreteImages(fd.StandardNormal(SHAPE), KEY), TypeError, "`flow` must be a Flow"),
        (lambda: DiscreteImages(normal_flow(), 0), TypeError, "DiscreteImages: `key`"),
        (lambda: DiscreteImages(normal_flow(), KEY, num_bits=9), ValueError, "`num_bits`"),
        (lambda: DiscreteImages(normal_flow(), KEY, num_samples=0), ValueError, "`num_samples`"),
        (
            lambda: DiscreteImages(normal_flow(), KEY).log_prob(jnp.zeros(SHAPE)),
            TypeError,
            "`images` must be uint8",
        ),
        (
            lambda: DiscreteImages(normal_flow(), KEY).log_prob(jnp.zeros((2, 2, 1), jnp.uint8)),
            ValueError,
            r"`images`.*expected",
        ),
    ],
)
def test_misuse(make, error, match):
    with pytest.raises(error, match=match):
        make()
