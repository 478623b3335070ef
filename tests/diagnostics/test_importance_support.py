"""Draws of weight zero, weights without a tail, and densities that are NaN or infinite."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy import stats

from flowdists.diagnostics import importance_sampling
from tests.tolerances import AGREE_F32, ROUND_TRIP_F32, STANDARD_ERRORS

KEY = jax.random.key(0)
NORMAL = dist.Normal(0.0, 1.0)
EPS = float(np.finfo(np.float32).eps)


class TestSupport:
    def test_draws_outside_weigh_nothing(self):
        def model():
            numpyro.sample("z", dist.Uniform(jnp.zeros(2), 1.0).to_event(1))

        def guide():
            numpyro.sample("z", dist.Normal(0.5, 0.4).expand([2]).to_event(1))

        result = importance_sampling(KEY, model, guide, {})
        z = np.asarray(result.samples["z"])
        inside = ((z >= 0) & (z <= 1)).all(1)
        assert 0 < inside.sum() < 4000
        np.testing.assert_array_equal(result.log_weights > -np.inf, inside)
        assert result.elbo == -np.inf
        assert np.isnan(result.elbo_se)
        assert abs(result.log_evidence) < STANDARD_ERRORS * result.log_evidence_se
        drawn = np.asarray(result.resample(jax.random.key(1), 1000)["z"])
        assert ((drawn >= 0) & (drawn <= 1)).all()

    def test_counts_and_signs_are_inside_or_not(self):
        """One of two elements of a plate outside is enough.

        Without NumPyro's validation the density of an exponential distribution goes on there.
        """

        def model():
            numpyro.sample("n", dist.Poisson(1.0))
            with numpyro.plate("plate", 2):
                numpyro.sample("s", dist.Exponential(1.0, validate_args=False))

        def guide():
            numpyro.sample("n", dist.Categorical(jnp.full(4, 0.25)))
            with numpyro.plate("plate", 2):
                numpyro.sample("s", dist.Normal(1.0, 1.0))

        result = importance_sampling(KEY, model, guide, {})
        is_outside = (np.asarray(result.samples["s"]) <= 0).any(1)
        np.testing.assert_array_equal(result.log_weights == -np.inf, is_outside)

    def test_a_simplex_is_met_up_to_rounding(self):
        class Rounded(dist.Dirichlet):
            def sample(self, key, sample_shape=()):
                return super().sample(key, sample_shape) * 1.0001

        def model():
            numpyro.sample("p", dist.Dirichlet(jnp.ones(3), validate_args=False))

        def guide():
            numpyro.sample("p", Rounded(jnp.ones(3), validate_args=False))

        result = importance_sampling(KEY, model, guide, {}, num_samples=100)
        assert np.isfinite(result.log_weights).all()

    def test_no_draw_inside(self):
        def model():
            numpyro.sample("z", dist.HalfNormal(1.0))

        def guide():
            numpyro.sample("z", dist.Normal(-50.0, 1.0))

        with pytest.raises(ValueError, match="none of 4000 draws"):
            importance_sampling(KEY, model, guide, {})

    @pytest.mark.filterwarnings("ignore:.*k-hat")
    def test_a_masked_site_has_no_bounds(self):
        def model():
            with handlers.mask(mask=False):
                numpyro.sample("z", dist.HalfNormal(1.0))

        def guide():
            numpyro.sample("z", NORMAL)

        result = importance_sampling(KEY, model, guide, {}, num_samples=50)
        expected = -stats.norm.logpdf(result.samples["z"])
        np.testing.assert_allclose(result.log_weights, expected, rtol=ROUND_TRIP_F32)

    def test_a_distribution_may_leave_its_support_open(self):
        class Open(dist.Normal):
            support = None

        def model():
            numpyro.sample("z", Open(0.0, 1.0, validate_args=False))

        def guide():
            numpyro.sample("z", NORMAL)

        result = importance_sampling(KEY, model, guide, {}, num_samples=50)
        np.testing.assert_allclose(result.log_weights, 0.0, atol=AGREE_F32)


class TestTail:
    """K-hat if there is no tail to fit."""

    @pytest.mark.filterwarnings("ignore:.*k-hat")
    # A fifth of the draws, rounded up, or three times the square root of their number.
    @pytest.mark.parametrize(("size", "tail"), [(102, 21), (400, 60)])
    def test_it_needs_more_positive_weights_than_are_in_the_tail(self, size, tail):
        def guide():
            numpyro.sample("z", dist.Normal(0.0, 1.0))

        def above(low):
            model = lambda: numpyro.sample("z", dist.Uniform(low, 100.0))
            return importance_sampling(KEY, model, guide, {}, num_samples=size)

        z = np.sort(above(-100.0).samples["z"])[::-1]
        few, enough = (above(float(z[n - 1 : n + 1].mean())) for n in (tail, tail + 1))
        assert np.isfinite(few.log_weights).sum() == tail
        assert few.khat == np.inf
        assert enough.khat < np.inf

    def test_too_few_positive_weights_are_told(self):
        def model():
            numpyro.sample("z", dist.Uniform(0.0, 1.0))

        def guide():
            numpyro.sample("z", dist.Normal(-2.0, 1.0))

        with pytest.warns(UserWarning, match="inf"):
            assert importance_sampling(KEY, model, guide, {}).khat == np.inf

    @pytest.mark.filterwarnings("ignore:.*k-hat")
    @pytest.mark.parametrize("number", [1, 20])
    @pytest.mark.parametrize(
        ("model_factor", "guide_factor", "magnitude"),
        [(0.0, 0.0, 1.0), (-64.0, 0.0, 64.0), (-32.0, -64.0, 64.0)],
    )
    def test_rounding_is_in_units_of_the_largest_density(
        self, model_factor, guide_factor, magnitude, number
    ):
        """At most the tail of 100 draws has another weight; up to eight units count as equal."""

        def guide(threshold, difference):
            u = numpyro.sample("u", dist.Uniform(0.0, 1.0))
            numpyro.factor("of the guide", guide_factor + smaller(u, threshold))

        def model(threshold, difference):
            u = numpyro.sample("u", dist.Uniform(0.0, 1.0))
            numpyro.factor("of the model", model_factor + smaller(u, threshold))
            numpyro.factor("difference", jnp.where(u < threshold, difference, 0.0))

        def smaller(u, threshold):
            """Makes half of the densities in the tail smaller, in both programs."""
            return jnp.where(u < threshold / 2, -model_factor / 2, 0.0)

        def weigh(threshold, units):
            arguments = threshold, units * EPS * magnitude
            return importance_sampling(KEY, model, guide, {}, *arguments, num_samples=100)

        u = np.sort(weigh(0.0, 0.0).samples["u"])
        threshold = float(u[number - 1 : number + 1].mean())
        assert weigh(threshold, 8.0).khat == -np.inf
        assert weigh(threshold, 8.01).khat > -np.inf


class TestUndefined:
    """An error names the site and the number of draws."""

    @staticmethod
    def standard():
        numpyro.sample("z", NORMAL)

    def words(self, model, guide):
        with pytest.raises(FloatingPointError) as raised:
            importance_sampling(KEY, model, guide, {})
        words = str(raised.value)
        return words, int(words.split(" of ")[0].split()[-1])

    @pytest.mark.parametrize(
        "factor",
        [jnp.log, lambda z: jnp.where(z < 0, jnp.inf, 0.0)],
        ids=["nan", "infinite"],
    )
    def test_density_of_the_model(self, factor):
        def model():
            numpyro.factor("bad", factor(numpyro.sample("z", NORMAL)))

        words, negative = self.words(model, self.standard)
        assert abs(negative - 2000) < STANDARD_ERRORS * np.sqrt(1000)
        assert f"model site 'bad': {negative}" in words
        assert "'z'" not in words

    def test_zero_density_of_the_guide(self):
        def guide():
            z = numpyro.sample("z", NORMAL)
            numpyro.factor("zero", jnp.where(z < 0, -jnp.inf, 0.0))

        words, negative = self.words(self.standard, guide)
        assert abs(negative - 2000) < STANDARD_ERRORS * np.sqrt(1000)
        assert f"guide site 'zero': {negative}" in words
        assert "model site" not in words

    def test_a_draw_that_is_nan_in_part(self):
        """The density of a uniform distribution at NaN is a number in NumPyro."""

        def model():
            with numpyro.plate("plate", 2):
                numpyro.sample("z", dist.Uniform(-100.0, 100.0))

        def guide():
            loc = jnp.array([0.0, jnp.nan])
            with numpyro.plate("plate", 2):
                numpyro.sample("z", dist.Normal(loc, 1.0, validate_args=False))

        words, number = self.words(model, guide)
        assert number == 4000
        assert "model site 'z': 4000" in words
        assert "guide site 'z': 4000" in words
