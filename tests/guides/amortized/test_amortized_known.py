"""The amortized guide where the posterior is known: set to it, and trained."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers, infer
from scipy import stats

import flowdists as fd
from tests.draws import normal
from tests.guides.amortized.models import (
    KEY,
    NOISE,
    SLOPE,
    drawn_params,
    exact_linear_gaussian,
    gaussian_guide,
    gaussian_hierarchical,
    hierarchical,
    hierarchical_posterior,
    linear_gaussian,
    linear_gaussian_data,
    losses,
    small_guide,
    standard_error,
)
from tests.tolerances import AGREE_F32, LOG_DET_F64, STANDARD_ERRORS


class TestLinearGaussian:
    SPREAD = (SLOPE**2 + NOISE**2) ** 0.5  # of the data
    VARIANCE = NOISE**2 / SPREAD**2  # of the posterior

    def test_set_to_the_posterior_its_bound_is_the_evidence(self, x64):
        x = linear_gaussian_data(30)
        guide, params = exact_linear_gaussian(x)
        evidence = stats.norm(0.0, self.SPREAD).logpdf(x).sum()
        bounds = -losses(guide, params, x, num_keys=3)
        np.testing.assert_allclose(bounds, evidence, rtol=LOG_DET_F64)

    def test_set_to_the_posterior_its_flow_is_that_of_each_datum(self, x64):
        x = linear_gaussian_data(30)
        guide, params = exact_linear_gaussian(x)
        new, z = normal(3, (50,)), normal(4, (50,))
        density = jax.jit(lambda: guide.local_posterior(params, new).log_prob(z[:, None]))()
        exact = stats.norm(self.VARIANCE * SLOPE / NOISE**2 * new, self.VARIANCE**0.5)
        np.testing.assert_allclose(density, exact.logpdf(z), rtol=LOG_DET_F64)

    @pytest.mark.slow
    @pytest.mark.heavy
    def test_every_datum_has_its_exact_posterior(self):
        x = linear_gaussian_data()
        guide = small_guide(linear_gaussian)
        params, _ = fd.fit_guide(
            KEY, guide, x, 50, num_steps=3000, learning_rate=2e-2, progress=False
        )
        draws = np.asarray(
            guide.sample_posterior(KEY, params, x, sample_shape=(4000,))["z"], np.float64
        )
        # A few per cent of the posterior's scale, but for the least and greatest of the data.
        inner = np.abs(x) < 2 * self.SPREAD
        expected = self.VARIANCE * SLOPE / NOISE**2 * np.asarray(x)
        errors = (draws.mean(0) - expected) / self.VARIANCE**0.5
        assert np.abs(errors)[inner].max() < 0.15
        assert (errors[inner] ** 2).mean() ** 0.5 < 0.05
        np.testing.assert_allclose(draws.std(0)[inner].mean(), self.VARIANCE**0.5, rtol=0.03)

        bounds = -losses(guide, params, x, num_keys=200)
        evidence = stats.norm(0.0, self.SPREAD).logpdf(x).sum()
        assert -0.05 < (bounds.mean() - evidence) / len(x) < 0.001

        # To data that it has not seen, the guide is just as good.
        new = linear_gaussian_data(50) / 2
        flow = guide.local_posterior(params, new)
        exact = dist.Normal(self.VARIANCE * SLOPE / NOISE**2 * new, self.VARIANCE**0.5)
        z = exact.sample(KEY, (1000,))
        divergence = (exact.log_prob(z) - flow.log_prob(z[..., None])).mean(0)
        assert divergence.shape == (50,)
        assert float(jnp.abs(divergence).max()) < 0.05

    def test_minibatches_may_be_the_model_s_argument(self):
        def model(batch, size):
            with numpyro.plate("data", size, subsample_size=len(batch)):
                z = numpyro.sample("z", dist.Normal(0.0, 1.0))
                numpyro.sample("x", dist.Normal(SLOPE * z, NOISE), obs=batch)

        x = linear_gaussian_data(30)
        guide, subsampling = gaussian_guide(model), gaussian_guide(linear_gaussian)
        params = drawn_params(guide, x[:10], 30)
        drawn_params(subsampling, x)
        rows = np.arange(10, 20)

        @jax.jit
        def evaluate(params):
            elbo = infer.Trace_ELBO()
            with handlers.substitute(data={"data": jnp.asarray(rows)}):
                expected = elbo.loss(KEY, params, linear_gaussian, subsampling, x, 10)
            return elbo.loss(KEY, params, model, guide, x[rows], 30), expected

        actual, expected = evaluate(params)
        np.testing.assert_allclose(actual, expected, rtol=AGREE_F32)
        draws = guide.sample_posterior(KEY, params, x[:10], 30, sample_shape=(2,))
        assert draws["z"].shape == (2, 10)


class TestHierarchical:
    Y = np.array([1.0, 3.0, 2.5, -0.5, 2.0, 4.0, 0.5, 1.5])

    def posterior_set(self):
        y = jnp.asarray(self.Y)
        _, covariance, _ = hierarchical_posterior(self.Y)
        return (*gaussian_hierarchical(y, covariance[0, 0] ** 0.5), y)

    def gap(self):
        """What the best approximation by independent blocks loses, if local ones are exact."""
        precision = np.linalg.inv(hierarchical_posterior(self.Y)[1])
        blocks = np.log(precision[0, 0]) + np.linalg.slogdet(precision[1:, 1:])[1]
        return 0.5 * (blocks - np.linalg.slogdet(precision)[1])

    def assert_moments(self, draws, mean_error, scale_error):
        mean, covariance, _ = hierarchical_posterior(self.Y)
        table = np.column_stack([draws["mean"], draws["effect"]]).astype(np.float64)
        deviation = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose((table.mean(0) - mean) / deviation, 0, atol=mean_error)
        np.testing.assert_allclose(table.std(0), deviation, rtol=scale_error)
        correlation = covariance / deviation / deviation[:, None]
        np.testing.assert_allclose(np.corrcoef(table.T), correlation, atol=mean_error)

    def test_set_to_the_posterior_its_bound_is_the_evidence(self, x64):
        guide, params, y = self.posterior_set()
        bounds = -losses(guide, params, y, num_keys=3)
        np.testing.assert_allclose(bounds, hierarchical_posterior(self.Y)[2], rtol=LOG_DET_F64)

    def test_set_to_the_posterior_its_draws_have_the_closed_forms(self):
        guide, params, y = self.posterior_set()
        draws = guide.sample_posterior(KEY, params, y, sample_shape=(10_000,))
        error = STANDARD_ERRORS / 10_000**0.5  # at most, of means and correlations
        self.assert_moments(draws, error, error / 2**0.5)

    def test_without_the_mean_in_its_context_it_loses_the_correlation(self):
        y = jnp.asarray(self.Y)
        precision = np.linalg.inv(hierarchical_posterior(self.Y)[1])
        options = {"condition_on_global": False}
        guide, params = gaussian_hierarchical(y, precision[0, 0] ** -0.5, **options)
        bounds = -losses(guide, params, y, num_keys=4000)
        assert self.gap() > 0.5
        loss = hierarchical_posterior(self.Y)[2] - bounds.mean() - self.gap()
        assert abs(loss) < STANDARD_ERRORS * standard_error(bounds)

    def test_minibatches_estimate_the_loss_of_all_data(self):
        y = linear_gaussian_data(30)
        guide = gaussian_guide(hierarchical, context_size=2)
        params = drawn_params(guide, y)
        whole = losses(guide, params, y, num_keys=4000)
        parts = losses(guide, params, y, 6, num_keys=4000)
        error = np.hypot(standard_error(whole), standard_error(parts))
        assert abs(whole.mean() - parts.mean()) < STANDARD_ERRORS * error
        assert error < 0.02 * abs(whole.mean())

    def fit(self, **options):
        guide = small_guide(hierarchical, **options)
        y = jnp.asarray(self.Y)
        result = fd.fit_guide(KEY, guide, y, num_steps=3000, learning_rate=2e-2, progress=False)
        return guide, result.params, y

    @pytest.mark.slow
    @pytest.mark.heavy
    def test_posterior_and_evidence_are_learned(self):
        guide, params, y = self.fit()
        bounds = -losses(guide, params, y, num_keys=2000)
        assert abs(bounds.mean() - hierarchical_posterior(self.Y)[2]) < 0.05
        draws = guide.sample_posterior(KEY, params, y, sample_shape=(10_000,))
        self.assert_moments(draws, 0.1, 0.07)

    @pytest.mark.slow
    @pytest.mark.heavy
    def test_without_the_mean_in_its_context_the_local_flow_is_too_narrow(self):
        guide, params, y = self.fit(condition_on_global=False)
        bounds = -losses(guide, params, y, num_keys=2000)
        assert abs(hierarchical_posterior(self.Y)[2] - bounds.mean() - self.gap()) < 0.1
