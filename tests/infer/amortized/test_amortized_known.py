"""The amortized guide where the posterior is known."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers, infer

import flowdists as fd
from tests.infer.amortized.models import (
    KEY,
    NOISE,
    SLOPE,
    hierarchical,
    hierarchical_posterior,
    linear_gaussian,
    linear_gaussian_data,
    losses,
    perturb,
    small_guide,
    standard_error,
    start,
)
from tests.tolerances import AGREE_F32, STANDARD_ERRORS


class TestLinearGaussian:
    @pytest.mark.heavy
    def test_every_datum_has_its_exact_posterior(self):
        x = linear_gaussian_data()
        guide = small_guide(linear_gaussian)
        params, _ = fd.fit_guide(
            KEY, guide, x, 50, num_steps=3000, learning_rate=2e-2, progress=False
        )
        variance = NOISE**2 / (SLOPE**2 + NOISE**2)
        draws = np.asarray(
            guide.sample_posterior(KEY, params, x, sample_shape=(4000,))["z"], np.float64
        )
        # A few per cent of the posterior's scale, but for the least and greatest of the data.
        inner = np.abs(x) < 2 * (SLOPE**2 + NOISE**2) ** 0.5
        errors = (draws.mean(0) - variance * SLOPE / NOISE**2 * np.asarray(x)) / variance**0.5
        assert np.abs(errors)[inner].max() < 0.15
        assert (errors[inner] ** 2).mean() ** 0.5 < 0.05
        np.testing.assert_allclose(draws.std(0)[inner].mean(), variance**0.5, rtol=0.03)

        bounds = -losses(guide, params, x, num_keys=200)
        evidence = dist.Normal(0.0, (SLOPE**2 + NOISE**2) ** 0.5).log_prob(x).sum()
        assert -0.05 < (bounds.mean() - float(evidence)) / len(x) < 0.001

        # To data that it has not seen, the guide is just as good.
        new = linear_gaussian_data(50) / 2
        flow = guide.local_posterior(params, new)
        exact = dist.Normal(variance * SLOPE / NOISE**2 * new, variance**0.5)
        z = exact.sample(KEY, (1000,))
        divergence = (exact.log_prob(z) - flow.log_prob(z[..., None])).mean(0)
        assert divergence.shape == (50,)
        assert float(jnp.abs(divergence).max()) < 0.05

    def test_minibatches_estimate_the_loss_of_all_data(self):
        x = linear_gaussian_data(30)
        guide = small_guide(linear_gaussian)
        params = perturb(start(guide, x)[2])
        whole = losses(guide, params, x, num_keys=4000)
        parts = losses(guide, params, x, 6, num_keys=4000)
        error = np.hypot(standard_error(whole), standard_error(parts))
        assert abs(whole.mean() - parts.mean()) < STANDARD_ERRORS * error
        assert error < 0.02 * abs(whole.mean())

    def test_minibatches_may_be_the_model_s_argument(self):
        def model(batch, size):
            with numpyro.plate("data", size, subsample_size=len(batch)):
                z = numpyro.sample("z", dist.Normal(0.0, 1.0))
                numpyro.sample("x", dist.Normal(SLOPE * z, NOISE), obs=batch)

        x = linear_gaussian_data(30)
        guide = small_guide(model)
        _, _, params = start(guide, x[:10], 30)
        params = perturb(params)
        subsampling = small_guide(linear_gaussian)
        start(subsampling, x)
        rows = jnp.arange(10, 20)
        with handlers.substitute(data={"data": rows}):
            expected = infer.Trace_ELBO().loss(KEY, params, linear_gaussian, subsampling, x, 10)
        actual = infer.Trace_ELBO().loss(KEY, params, model, guide, x[rows], 30)
        np.testing.assert_allclose(actual, expected, rtol=AGREE_F32)
        draws = guide.sample_posterior(KEY, params, x[:10], 30, sample_shape=(2,))
        assert draws["z"].shape == (2, 10)


class TestHierarchical:
    Y = jnp.array([1.0, 3.0, 2.5, -0.5, 2.0, 4.0, 0.5, 1.5])

    def fit(self, **options):
        guide = small_guide(hierarchical, **options)
        return guide, fd.fit_guide(
            KEY, guide, self.Y, num_steps=3000, learning_rate=2e-2, progress=False
        ).params

    @pytest.mark.heavy
    def test_posterior_and_evidence_are_the_closed_forms(self):
        guide, params = self.fit()
        mean, covariance, evidence = hierarchical_posterior(self.Y)
        bounds = -losses(guide, params, self.Y, num_keys=2000)
        assert abs(bounds.mean() - evidence) < 0.05
        draws = guide.sample_posterior(KEY, params, self.Y, sample_shape=(10_000,))
        table = np.column_stack([draws["mean"], draws["effect"]]).astype(np.float64)
        deviation = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose((table.mean(0) - mean) / deviation, 0, atol=0.1)
        np.testing.assert_allclose(table.std(0), deviation, rtol=0.07)
        correlation = covariance / deviation / deviation[:, None]
        np.testing.assert_allclose(np.corrcoef(table.T), correlation, atol=0.1)

    @pytest.mark.heavy
    def test_without_the_mean_in_its_context_the_local_flow_is_too_narrow(self):
        guide, params = self.fit(condition_on_global=False)
        _, covariance, evidence = hierarchical_posterior(self.Y)
        bounds = -losses(guide, params, self.Y, num_keys=2000)
        # What the best approximation by independent blocks loses, if local ones are exact.
        precision = np.linalg.inv(covariance)
        blocks = np.log(precision[0, 0]) + np.linalg.slogdet(precision[1:, 1:])[1]
        gap = 0.5 * (blocks - np.linalg.slogdet(precision)[1])
        assert gap > 0.5
        assert abs(evidence - bounds.mean() - gap) < 0.1
