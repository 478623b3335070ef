"""Inference for the model of missing pixels, of which the joint density is tested elsewhere."""

import jax
import numpy as np
import optax
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta

import flowdists as fd
from flowdists.images import inpainting_model
from tests.images.test_inpainting import MASKS, conditional, images_of, linear_flow, size_allowed
from tests.tolerances import STANDARD_ERRORS, TRAINED

pytestmark = pytest.mark.slow
KEY = jax.random.key(0)
MASK = MASKS[0]


def test_a_point_guide_finds_the_mode():
    flow, observed = linear_flow(), images_of(2)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 500))
    svi = SVI(inpainting_model, AutoDelta(inpainting_model), optimizer, Trace_ELBO())
    result = svi.run(KEY, 500, flow, observed, MASKS, 0.3, progress_bar=False)
    images = flow.bijector(result.params["z_auto_loc"])
    for image, seen, mask in zip(images, observed, MASKS, strict=True):
        mean, _ = conditional(seen, mask, 0.3)
        np.testing.assert_allclose(image, mean, rtol=0, atol=size_allowed())


@pytest.mark.heavy
def test_nuts_samples_the_conditional_distribution():
    seen = images_of()
    mcmc = MCMC(NUTS(inpainting_model), num_warmup=300, num_samples=1500, progress_bar=False)
    mcmc.run(KEY, linear_flow(), seen, MASK, 0.3)
    x = np.asarray(mcmc.get_samples()["x"], np.float64).reshape(1500, 6)
    mean, covariance = conditional(seen, MASK, 0.3)
    standardized = (x - mean.ravel()) / np.sqrt(np.diag(covariance))
    for moment, expected in ((standardized, 0.0), (standardized**2, 1.0)):
        errors = moment.std(0) / np.sqrt(effective_sample_size(moment[None]))
        assert (np.abs(moment.mean(0) - expected) < STANDARD_ERRORS * errors).all()


@pytest.mark.heavy
def test_a_flow_guide_finds_the_conditional_distribution():
    flow, seen = linear_flow(), images_of()
    guide = fd.AutoFlow(inpainting_model)
    fit = fd.fit_guide(KEY, guide, flow, seen, MASK, 0.3, num_steps=200, progress=False)
    draws = guide.sample_posterior(jax.random.key(1), fit.params, sample_shape=(4000,))
    x = np.asarray(flow.bijector(draws["z"]), np.float64).reshape(4000, 6)
    mean, covariance = conditional(seen, MASK, 0.3)
    errors = STANDARD_ERRORS * np.sqrt(np.diag(covariance) / 4000)
    assert (np.abs(x.mean(0) - mean.ravel()) < errors + TRAINED).all()
