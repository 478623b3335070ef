"""Importance sampling from guides, against conjugate models and densities written out."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer import SVI, Trace_ELBO, autoguide
from numpyro.infer.util import potential_energy
from scipy import stats

import flowdists as fd
from flowdists.diagnostics import importance_sampling
from tests import table
from tests.tolerances import (
    AGREE_F32,
    LOG_DET_F64,
    ROUND_TRIP_F32,
    ROUND_TRIP_F64,
    STANDARD_ERRORS,
)

Y = np.random.default_rng(0).normal(0.5, 1.2, size=(6, 3))
VARIANCE = 1 / (1 + len(Y))  # of the posterior, in each of the three dimensions
MEAN = VARIANCE * Y.sum(0)
COVARIANCE = np.eye(len(Y)) + 1
EVIDENCE = stats.multivariate_normal(np.zeros(len(Y)), COVARIANCE).logpdf(Y.T).sum()


def conjugate(y):
    z = numpyro.sample("z", dist.Normal(0, 1).expand([3]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(z, 1).to_event(1), obs=y)


def gaussian(scale):
    """The posterior with another scale."""

    def guide(y):
        numpyro.sample("z", dist.Normal(MEAN, scale * VARIANCE**0.5).to_event(1))

    return guide


def constrained(x, y):
    """Supports of several kinds, a plate, a deterministic site, a factor; sorted sites."""
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    with numpyro.plate("group", 2):
        slope = numpyro.sample("slope", dist.Uniform(-1.0, 1.0))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    mean = numpyro.deterministic("mean", x @ weights + slope[0] * slope[1])
    numpyro.factor("penalty", -0.5 * scale)
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(mean, scale), obs=y)


X = np.random.default_rng(1).normal(size=(5, 3))
ROWS = X, np.arange(5.0)


class FlowGuide(autoguide.AutoContinuous):
    """An untrained flow over all latent variables."""

    def __init__(self, model):
        super().__init__(model)
        make = functools.partial(fd.RealNVP, event_shape=(5,), num_layers=1, **table.SMALL)
        flow = jax.jit(make)(jax.random.key(2))
        moved = table.perturb(jax.random.key(3), flow.bijector, 0.2)
        self.flow = flow.replace(bijector=moved)

    def _get_posterior(self):
        return self.flow

    def get_posterior(self, params):
        return self.flow


GUIDES = {
    "normal": autoguide.AutoNormal,
    "multivariate": autoguide.AutoMultivariateNormal,
    "low rank": autoguide.AutoLowRankMultivariateNormal,
    "flow": FlowGuide,
}


def first_params(guide, model, *args):
    svi = SVI(model, guide, optax.sgd(1.0), Trace_ELBO())
    return jax.jit(lambda key: svi.get_params(svi.init(key, *args)))(jax.random.key(1))


@functools.cache
def from_gaussian(scale):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = importance_sampling(jax.random.key(0), conjugate, gaussian(scale), {}, Y)
    return result, [warning for warning in told if "k-hat" in str(warning.message)]


class TestConjugate:
    def test_the_posterior_as_guide_gives_the_evidence_exactly(self, x64):
        result = importance_sampling(
            jax.random.key(0), conjugate, gaussian(1.0), {}, Y, num_samples=200
        )
        assert result.khat == -np.inf
        for estimate in (result.log_evidence, result.elbo):
            np.testing.assert_allclose(estimate, EVIDENCE, rtol=ROUND_TRIP_F64)
        assert max(result.log_evidence_se, result.elbo_se) < ROUND_TRIP_F64
        np.testing.assert_allclose(result.ess, 200)
        assert result.samples["z"].shape == (200, 3)

    def test_rounding_is_not_a_tail(self):
        assert from_gaussian(1.0)[0].khat == -np.inf

    @pytest.mark.parametrize("scale", [0.9, 1.2, 1.5])
    def test_closed_forms_of_another_scale(self, scale):
        size, dim = 4000, 3
        result, _ = from_gaussian(scale)
        elbo = EVIDENCE - dim * (0.5 * (scale**2 - 1) - np.log(scale))
        assert abs(result.elbo - elbo) < STANDARD_ERRORS * result.elbo_se
        assert abs(result.log_evidence - EVIDENCE) < STANDARD_ERRORS * result.log_evidence_se

        # Log weights are (1 - scale²) / 2 times a chi-square of three degrees, whose standard
        # deviation is estimated to a relative error of sqrt((4 + 2) / 4 / size) = 0.02.
        error = np.sqrt(dim / 2 / size) * abs(1 - scale**2)
        assert abs(result.elbo_se / error - 1) < STANDARD_ERRORS * 0.02

        # Moments of the weights, and the standard error of their ratio by the delta method.
        squares = (scale**2 / np.sqrt(2 * scale**2 - 1)) ** dim
        weights = np.exp(result.log_weights - EVIDENCE)
        influence = weights**2 - 2 * squares * weights
        ratio_se = influence.std() / np.sqrt(size)
        assert abs(size / result.ess - squares) < STANDARD_ERRORS * ratio_se
        relative = STANDARD_ERRORS * ratio_se / (squares - 1)
        assert abs(result.log_evidence_se**2 * size / (squares - 1) - 1) < relative

    @pytest.mark.parametrize(("scale", "reliable"), [(0.85, True), (0.4, False)])
    def test_khat_tells_a_guide_that_is_too_narrow(self, scale, reliable):
        """Weights of a Gaussian guide have moments up to the order 1 / (1 - scale²)."""
        result, told = from_gaussian(scale)
        assert (result.khat < 0.7) == reliable == (not told)
        assert all(warning.filename == __file__ for warning in told)
        assert all("above 0.70" in str(warning.message) for warning in told)

    def test_fewer_draws_need_a_lighter_tail(self):
        with pytest.warns(UserWarning, match="above 0.50"):
            importance_sampling(jax.random.key(0), conjugate, gaussian(0.3), {}, Y, num_samples=100)

    def test_smoothing_changes_the_tail_only(self):
        result, _ = from_gaussian(0.85)
        np.testing.assert_allclose(np.exp(result.smoothed_log_weights).sum(), 1.0)
        change = result.log_weights - result.smoothed_log_weights
        body = result.log_weights < np.quantile(result.log_weights, 0.9)
        expected = result.log_evidence + np.log(4000)
        np.testing.assert_allclose(change[body], expected, rtol=ROUND_TRIP_F64)
        assert not np.allclose(change[~body], expected)

    @pytest.mark.filterwarnings("ignore:.*k-hat")
    def test_standard_errors_are_unbiased_at_the_least_number_of_draws(self):
        size = 25
        result = importance_sampling(
            jax.random.key(0), conjugate, gaussian(1.2), {}, Y, num_samples=size
        )
        weights = np.exp(result.smoothed_log_weights)

        def variance(values):
            return np.sum((values - values.sum() / size) ** 2) / (size - 1)

        exact = {"rtol": ROUND_TRIP_F64}
        elbo_variance = variance(result.log_weights) / size
        np.testing.assert_allclose(result.elbo_se**2, elbo_variance, **exact)
        np.testing.assert_allclose(result.log_evidence_se**2, size * variance(weights), **exact)
        np.testing.assert_allclose(result.ess, 1 / np.sum(weights**2), **exact)

    def test_resampling_moves_draws_to_the_posterior(self):
        def shifted(y):
            numpyro.sample("z", dist.Normal(MEAN + 0.3, 1.3 * VARIANCE**0.5).to_event(1))

        result = importance_sampling(jax.random.key(0), conjugate, shifted, {}, Y)
        draws = result.resample(jax.random.key(1), 3000)["z"]
        assert draws.shape == (3000, 3)
        error = np.sqrt(VARIANCE * (1 / 3000 + 1 / result.ess))
        np.testing.assert_array_less(abs(np.mean(draws, 0) - MEAN), STANDARD_ERRORS * error)
        np.testing.assert_array_less(STANDARD_ERRORS * error, abs(MEAN + 0.3 - MEAN))
        assert "khat=" in repr(result)
        assert "log_evidence=" in repr(result)


@pytest.mark.filterwarnings("ignore:.*k-hat")
class TestGuides:
    @pytest.mark.parametrize("name", sorted(GUIDES))
    def test_weights_are_those_of_unconstrained_densities(self, name, x64):
        guide = GUIDES[name](constrained)
        params = first_params(guide, constrained, *ROWS)
        result = importance_sampling(
            jax.random.key(0), constrained, guide, params, *ROWS, num_samples=50
        )

        @jax.jit
        def expected(samples):
            trace = handlers.trace(handlers.seed(constrained, 0)).get_trace(*ROWS)
            free = {n: biject_to(trace[n]["fn"].support).inv(v) for n, v in samples.items()}
            log_p = -jax.vmap(lambda z: potential_energy(constrained, ROWS, {}, z))(free)
            flat = {n: z.reshape(50, -1) for n, z in free.items()}
            if name == "normal":
                loc, scale = (
                    {n: params[f"{n}_auto_{kind}"].ravel() for n in flat}
                    for kind in ("loc", "scale")
                )
                return log_p, sum(
                    dist.Normal(loc[n], scale[n]).log_prob(z).sum(1) for n, z in flat.items()
                )
            sites = [flat[n] for n in ("scale", "slope", "weights")]
            return log_p, guide.get_posterior(params).log_prob(jnp.concatenate(sites, 1))

        log_p, log_q = map(np.asarray, expected(result.samples))
        np.testing.assert_allclose(result.log_weights, log_p - log_q, rtol=LOG_DET_F64)

    def test_a_laplace_approximation_is_its_gaussian(self, x64):
        guide = autoguide.AutoLaplaceApproximation(conjugate, prefix="mode")
        params = {"mode_loc": jnp.array(MEAN)}
        result = importance_sampling(
            jax.random.key(0), conjugate, guide, params, Y, num_samples=100
        )
        np.testing.assert_allclose(result.log_weights, EVIDENCE, rtol=ROUND_TRIP_F64)
        with pytest.raises(ValueError, match="mode_loc"):
            importance_sampling(jax.random.key(0), conjugate, guide, {}, Y)

    def test_annealed_importance_sampling_estimates_the_evidence(self):
        """A guide with a masked auxiliary site, and a factor."""
        guide = autoguide.AutoDAIS(conjugate, K=2)
        params = {**first_params(guide, conjugate, Y), "auto_z_0_loc": jnp.asarray(MEAN)}
        params["auto_z_0_scale"] = jnp.asarray(np.full(3, 1.3 * VARIANCE**0.5))
        result = importance_sampling(jax.random.key(0), conjugate, guide, params, Y)
        assert abs(result.log_evidence - EVIDENCE) < STANDARD_ERRORS * result.log_evidence_se

    def test_a_flow_is_never_inverted(self):
        class OneWay(fd.Bijector):
            scale: jax.Array
            event_shape = ()

            def forward_and_log_det(self, x, context=None):
                return x * self.scale, jnp.log(self.scale) * jnp.ones(jnp.shape(x))

            def inverse_and_log_det(self, y, context=None):
                raise AssertionError

        def guide(y):
            numpyro.sample("z", fd.Flow(fd.StandardNormal((3,)), OneWay(jnp.array(0.5))))

        assert np.isfinite(
            importance_sampling(jax.random.key(0), conjugate, guide, {}, Y).log_evidence
        )

    def test_batches_and_a_guide_that_has_not_run_yet(self):
        params = {"z_auto_loc": MEAN, "z_auto_scale": np.full(3, 0.5)}
        whole, batched = (
            importance_sampling(
                jax.random.key(0),
                conjugate,
                autoguide.AutoNormal(conjugate),
                params,
                Y,
                num_samples=50,
                batch_size=batch_size,
            )
            for batch_size in (None, 16)
        )
        np.testing.assert_allclose(batched.log_weights, whole.log_weights, rtol=ROUND_TRIP_F32)
        np.testing.assert_allclose(batched.samples["z"], whole.samples["z"], rtol=AGREE_F32)

    def test_params_of_the_model_and_scales_count(self, x64):
        def model():
            loc = numpyro.param("loc", 5.0)
            with handlers.scale(scale=3.0):
                numpyro.sample("z", dist.Normal(loc, 1.0))

        def guide():
            numpyro.sample("z", dist.Normal(numpyro.param("guide_loc", 9.0), 0.5))

        params = {"loc": 2.0, "guide_loc": 1.0}
        result = importance_sampling(jax.random.key(0), model, guide, params, num_samples=50)
        z = np.asarray(result.samples["z"])
        expected = 3 * stats.norm(2, 1).logpdf(z) - stats.norm(1, 0.5).logpdf(z)
        np.testing.assert_allclose(result.log_weights, expected, rtol=LOG_DET_F64)


NORMAL = dist.Normal(0.0, 1.0)


def one_site(name="z", fn=NORMAL):
    return lambda *args: numpyro.sample(name, fn)


def subsampled(y):
    z = numpyro.sample("z", NORMAL)
    with numpyro.plate("row", 6, subsample_size=2):
        numpyro.sample("y", dist.Normal(z, 1), obs=numpyro.subsample(y, event_dim=0))


def with_spare_randomness(*args):
    numpyro.sample("spare", NORMAL, infer={"is_auxiliary": True})
    numpyro.sample("z", NORMAL)


def call(model=None, guide=None, params=None, *args, **options):
    return importance_sampling(
        jax.random.key(0), model or one_site(), guide or one_site(), params or {}, *args, **options
    )


MISUSE = {
    "key of resample": (lambda: from_gaussian(1.2)[0].resample(0, 9), ["resample", "key"]),
    "number of resample": (
        lambda: from_gaussian(1.2)[0].resample(jax.random.key(0), 0),
        ["resample", "num_samples", "0"],
    ),
    "key": (
        lambda: importance_sampling(0, one_site(), one_site(), {}),
        ["importance_sampling", "key"],
    ),
    "model": (lambda: call(model=3), ["`model`", "function", "int"]),
    "guide": (lambda: call(guide=3), ["`guide`", "function", "int"]),
    "params": (lambda: call(params=[1]), ["`params`", "dict", "list"]),
    "too few samples": (lambda: call(num_samples=10), ["num_samples", "25", "10"]),
    "batch size": (lambda: call(batch_size=0), ["batch_size", "0"]),
    "guide without the site": (lambda: call(guide=one_site("x")), ["guide", "['z']"]),
    "data not given": (
        lambda: call(lambda y: one_site("y", NORMAL)(), lambda y: None, {}, None),
        ["guide", "['y']", "data"],
    ),
    "missing params": (
        lambda: call(guide=lambda: numpyro.sample("z", dist.Normal(numpyro.param("m", 0.0), 1))),
        ["`params`", "guide", "['m']"],
    ),
    "missing params of the model": (
        lambda: call(lambda: numpyro.sample("z", dist.Normal(numpyro.param("m", 0.0), 1))),
        ["`params`", "model", "['m']"],
    ),
    "shapes": (
        lambda: call(guide=one_site(fn=NORMAL.expand([2]).to_event(1))),
        ["'z'", "(2,)", "()"],
    ),
    "subsampling": (
        lambda: call(subsampled, one_site(), {}, jnp.arange(6.0)),
        ["'row'", "2 of 6", "model", "estimate"],
    ),
    "subsampling by the guide": (
        lambda: call(lambda y: one_site()(), subsampled, {}, np.arange(6.0)),
        ["'row'", "2 of 6", "guide", "estimate"],
    ),
    "point masses of two dimensions": (
        lambda: call(
            one_site(fn=NORMAL.expand([2]).to_event(1)),
            one_site(fn=dist.Delta(np.zeros(2)).to_event(1)),
        ),
        ["no density", "['z']", "2 dimensions"],
    ),
    "point masses": (
        lambda: call(one_site(), autoguide.AutoDelta(one_site()), {"z_auto_loc": 0.0}),
        ["no density", "['z']", "1 dimensions", "AutoNormal"],
    ),
    "spare randomness": (
        lambda: call(guide=with_spare_randomness),
        ["auxiliary", "'spare'", "1 dimensions"],
    ),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    call, words = MISUSE[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    for word in words:
        assert word in str(raised.value)


def test_the_model_conditioned_on_nothing_has_evidence_one():
    result = call(one_site(), one_site(), num_samples=100)
    assert abs(result.log_evidence) < AGREE_F32
