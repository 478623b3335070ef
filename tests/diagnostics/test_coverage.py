"""Coverage of highest-density regions, with posteriors known exactly."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import flowdists as fd
from flowdists.diagnostics import CoverageResult, expected_coverage
from flowdists.transformers import ShiftScale
from tests.draws import normal
from tests.draws import uniform as uniform_draws
from tests.tolerances import P_VALUE, ROUND_TRIP_F64, STANDARD_ERRORS

PAIRS, DRAWS = 400, 99


def pairs(size=PAIRS, dim=2):
    """Draws of a standard normal, each seen once through standard normal noise."""
    x, noise = map(np.asarray, normal(5, (2, size, dim)))
    return x, x + noise


class Moments(eqx.Module):
    """Locations and log-scales, linear in the context; arrays, so that one program fits all."""

    slope: jax.Array
    shift: jax.Array
    log_scale: jax.Array

    def __call__(self, context):
        loc = self.slope * context + self.shift
        return jnp.concatenate([loc, jnp.broadcast_to(self.log_scale, loc.shape)], -1)


def conditional(conditioner, dim=2, **options):
    """Normals whose locations and log-scales ``conditioner`` computes from the context."""
    layer = fd.ContextElementwise(
        jax.random.key(0),
        (dim,),
        (dim,),
        transformer=ShiftScale(scale="exp"),
        conditioner=conditioner,
    )
    return fd.ConditionalFlow(fd.StandardNormal((dim,)), layer, **options)


def posterior(scale=1.0, shift=0.0, dim=2, **options):
    """The posterior of :func:`pairs`, shifted, with its scale multiplied."""
    moments = (0.5, shift, np.log(scale * np.sqrt(0.5)))
    return conditional(Moments(*map(jnp.float32, moments)), dim, **options)


def uniform():
    """A conditional flow of density one on the unit square."""
    key, identity = jax.random.key(0), ShiftScale(scale="exp")
    layer = fd.ContextElementwise(key, (2,), (1,), transformer=identity, hidden_sizes=())
    return fd.ConditionalFlow(fd.StandardUniform((2,)), layer)


def result_of(flow, data=None, **options):
    x, context = pairs() if data is None else data
    options = {"num_draws": DRAWS, **options}
    return expected_coverage(jax.random.key(1), flow, x, context, **options)


def pvalue(result):
    return fd.uniformity_pvalues({"x": result.ranks}, result.num_draws)["x"]


class TestCalibration:
    def test_the_posterior_is_calibrated(self):
        result = result_of(posterior())
        assert result.ranks.shape == (PAIRS,)
        assert np.issubdtype(result.ranks.dtype, np.integer)
        assert pvalue(result) > P_VALUE
        levels = np.array([0.1, 0.5, 0.9])
        error = np.sqrt(levels * (1 - levels) / PAIRS)
        assert (np.abs(result.coverage(levels) - levels) < STANDARD_ERRORS * error).all()

    @pytest.mark.parametrize("scale", [0.6, 1.6])
    def test_scales_that_are_wrong_cover_what_they_should(self, scale):
        """Regions are circles; the square of the true radius is chi-squared distributed."""
        result = result_of(posterior(scale))
        assert pvalue(result) < P_VALUE
        levels = np.array([0.2, 0.5, 0.8])
        expected = stats.chi2(2).cdf(scale**2 * stats.chi2(2).ppf(levels))
        # The draws give a region up to an error, whose effect on the mean is of second order.
        error = np.sqrt(expected * (1 - expected) / PAIRS)
        given = result.coverage(levels)
        assert (np.abs(given - expected) < STANDARD_ERRORS * error).all()
        assert (np.sign(given - levels) == np.sign(scale - 1)).all()

    def test_a_location_that_is_wrong_is_not_calibrated(self):
        result = result_of(posterior(shift=0.7))
        assert pvalue(result) < P_VALUE
        assert result.coverage(0.5) < 0.5

    def test_the_marginal_distribution_passes(self):
        marginal = conditional(Moments(*jnp.zeros(3)))
        assert pvalue(result_of(marginal)) > P_VALUE


class TestRanks:
    @pytest.mark.parametrize("dim", [1, 3])
    def test_are_binomial_with_the_mass_of_higher_density(self, dim):
        x, context = pairs(100, dim)
        result = result_of(posterior(dim=dim), (x, context), num_draws=2000)
        radius = np.square(np.asarray(x) - np.asarray(context) / 2).sum(-1) / 0.5
        mass = stats.chi2(dim).cdf(radius)
        error = np.sqrt(mass * (1 - mass) / 2000)
        assert (np.abs(result.credibility - mass) <= STANDARD_ERRORS * error + 1 / 2000).all()

    def test_batches_do_not_change_them(self):
        data = pairs(20)
        whole = result_of(posterior(), data, batch_size=100)
        for size in (1, 6):
            given = result_of(posterior(), data, batch_size=size)
            np.testing.assert_array_equal(given.ranks, whole.ranks)

    def test_ties_are_broken_at_random(self):
        x = uniform_draws(2, (PAIRS, 2))
        assert pvalue(result_of(uniform(), (x, np.ones((PAIRS, 1))))) > P_VALUE

    def test_values_without_density_are_in_no_region_but_the_whole(self):
        result = result_of(uniform(), (np.full((PAIRS, 2), 7.0), np.ones((PAIRS, 1))))
        np.testing.assert_array_equal(result.ranks, DRAWS)
        np.testing.assert_array_equal(result.credibility, 1.0)

    def test_labels_are_contexts(self):
        labels = np.arange(PAIRS) % 2
        one_hot = np.eye(2, dtype=np.float32)[labels]
        x = np.asarray(normal(2, (PAIRS, 2), 0.5**0.5)) + one_hot / 2
        flow = posterior(num_classes=2)
        by_label, by_vector = result_of(flow, (x, labels)), result_of(flow, (x, one_hot))
        np.testing.assert_array_equal(by_label.ranks, by_vector.ranks)
        assert pvalue(by_label) > P_VALUE


class TestCoverage:
    def test_all_ranks_once_are_covered_as_they_should_be(self):
        levels = np.linspace(0, 1, 41).reshape(1, 41)
        given = CoverageResult(np.random.default_rng(0).permutation(8), 7).coverage(levels)
        np.testing.assert_allclose(given, levels, atol=ROUND_TRIP_F64)

    def test_ranks_count_in_part_within_their_interval(self):
        """The mean over uniform positions of each rank in its interval."""
        ranks = np.array([0, 0, 2, 4])
        result = CoverageResult(ranks, 4)
        levels = np.array([0.0, 0.1, 0.2, 0.45, 0.9, 1.0])
        expected = [np.clip(5 * level - ranks, 0, 1).mean() for level in levels]
        np.testing.assert_allclose(result.coverage(levels), expected, atol=ROUND_TRIP_F64)
        assert result.coverage(0.1).shape == ()

    @pytest.mark.parametrize("nominal", [-0.1, 1.1, np.nan, [0.5, 2.0]])
    def test_levels_are_from_0_to_1(self, nominal):
        with pytest.raises(ValueError, match="`nominal` must be from 0 to 1"):
            CoverageResult(np.arange(5), 4).coverage(nominal)


def given(x=None, context=None, flow=None, key=None, **options):
    x = np.zeros((3, 2)) if x is None else x
    context = np.zeros((3, 2)) if context is None else context
    key = jax.random.key(0) if key is None else key
    return expected_coverage(key, posterior() if flow is None else flow, x, context, **options)


MISUSE = {
    "key": (lambda: given(key=0), ["`key`", "0"]),
    "flow": (
        lambda: given(flow=dist.Normal(0, 1)),
        ["`flow`", "ConditionalFlow", "Normal"],
    ),
    "ints": (lambda: given(np.zeros((3, 2), int)), ["`x`", "int"]),
    "int contexts": (lambda: given(context=np.zeros((3, 2), int)), ["`context`", "int"]),
    "event": (lambda: given(np.zeros((3, 4))), ["`x`", "(2,)", "(3, 4)"]),
    "no batch": (lambda: given(np.zeros(2)), ["`x`", "(n, *event_shape)", "(2,)"]),
    "empty": (lambda: given(np.zeros((0, 2))), ["`x`", "(0, 2)"]),
    "other contexts": (lambda: given(context=np.zeros((4, 2))), ["`context`", "(3, 2)", "(4, 2)"]),
    "one context": (lambda: given(context=np.zeros(2)), ["`context`", "(3, 2)", "(2,)"]),
    "nan": (lambda: given(np.array([[0.0, 0.0], [np.nan] * 2, [0.0, 0.0]])), ["`x`", "index 1"]),
    "nan in context": (
        lambda: given(context=np.full((3, 2), np.nan)),
        ["`context`", "NaN"],
    ),
    "nan in density": (
        lambda: given(
            context=np.array([[1.0] * 2, [1.0] * 2, [-1.0] * 2]),
            flow=conditional(lambda context: jnp.log(jnp.concatenate([context, context], -1))),
        ),
        ["NaN", "1 of 3", "index 2"],
    ),
    "draws": (lambda: given(num_draws=0), ["`num_draws`", "0"]),
    "batch size": (lambda: given(batch_size=2.5), ["`batch_size`", "2.5"]),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    call, words = MISUSE[case]
    with pytest.raises((TypeError, ValueError, FloatingPointError)) as raised:
        call()
    for word in ["expected_coverage: ", *words]:
        assert word in str(raised.value)
