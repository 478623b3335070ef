"""Where the guide starts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import infer
from numpyro.infer import autoguide
from scipy import stats

from flowdists.guides import AutoFlow
from flowdists.guides.pathfinder import MAX_HESSIAN_DIM, pathfinder
from tests import table
from tests.draws import normal
from tests.guides.autoflow.regression import (
    COVARIANCE,
    DATA,
    DESIGN,
    KEY,
    MEAN,
    NOISE,
    Y,
    assert_mean,
    elbos,
    exact,
    linear,
    regression,
    start,
)
from tests.tolerances import AGREE_F32, LOG_DET_F64, ROUND_TRIP_F64, STANDARD_ERRORS

STRATEGIES = {
    "value": (infer.init_to_value(values={"x": np.array([0.3, 2.0], np.float32)}), True),
    "mean": (infer.init_to_mean(), False),
    "median": (infer.init_to_median(num_samples=3), False),
    "uniform": (infer.init_to_uniform(radius=1), False),
    "sample": (infer.init_to_sample(), False),
    "function": (infer.init_to_median, False),
}


class TestStart:
    def test_pathfinder_is_exact_for_a_normal_posterior(self, x64):
        guide, params = exact()
        loc, scale = params["auto_loc"], params["auto_scale"]
        # Points are chosen by their ELBO, whose maximum is flat: half of the digits.
        np.testing.assert_allclose(loc, MEAN, rtol=ROUND_TRIP_F64**0.5)
        np.testing.assert_allclose(scale @ scale.T, COVARIANCE, rtol=ROUND_TRIP_F64)
        expected = stats.multivariate_normal(loc, COVARIANCE).logpdf(MEAN + 0.1)
        density = guide.get_posterior(params).log_prob(MEAN + 0.1)
        np.testing.assert_allclose(density, expected, rtol=LOG_DET_F64)

    @pytest.mark.parametrize("dim", [3, MAX_HESSIAN_DIM + 1])
    def test_pathfinder_finds_an_independent_normal(self, dim):
        scale = jnp.logspace(-3, 2 if dim <= MAX_HESSIAN_DIM else -0.5, dim)
        loc = jnp.linspace(-5, 5, dim) * scale
        potential = lambda x: 0.5 * jnp.sum(((x - loc) / scale) ** 2)
        found = jax.jit(lambda x: pathfinder(KEY, potential, x))(jnp.zeros(dim))
        deviations = found.scale if found.scale.ndim == 1 else jnp.diag(found.scale)
        assert found.scale.ndim == (2 if dim <= MAX_HESSIAN_DIM else 1)
        np.testing.assert_allclose(deviations, scale, rtol=1e-3)
        np.testing.assert_allclose((found.loc - loc) / scale, 0.0, atol=1e-2)

    @pytest.mark.heavy
    def test_a_posterior_without_a_mode(self):
        """The density of a funnel has no maximum; its best normal has an ELBO."""

        def potential(u):
            log_variance, x = u[0], u[1:]
            of_x = 0.5 * x**2 * jnp.exp(-log_variance) + 0.5 * log_variance
            normalization = math.log(3) + 5 * math.log(2 * math.pi)
            return 0.5 * (log_variance / 3) ** 2 + of_x.sum() + normalization

        @jax.jit
        def find(position, noise):
            found = pathfinder(KEY, potential, position)
            return found, jax.vmap(potential)(found.loc + noise @ found.scale.T)

        noise = normal(1, (4000, 10))
        found, energies = find(normal(0, (10,)), noise)
        log_q = stats.norm.logpdf(noise).sum(-1) - np.log(np.diag(found.scale)).sum()
        values = -np.asarray(energies) - log_q
        assert np.isfinite(values).all() and values.mean() > -8

    def test_where_no_normal_has_an_elbo_it_starts_as_if_without_pathfinder(self):
        def model():
            x = numpyro.sample("x", dist.Normal(0, 1))
            numpyro.factor("cliff", jnp.where(jnp.abs(x) < 1e-3, 0.0, jnp.nan))

        def near(site):
            return jnp.array(5e-4)

        guide = AutoFlow(model, linear)
        guide.init_loc_fn = functools.partial(near)
        _, _, params = start(guide)
        np.testing.assert_allclose(params["auto_loc"], [5e-4], rtol=AGREE_F32)
        np.testing.assert_allclose(params["auto_scale"], [[0.1]], rtol=AGREE_F32)

    def test_another_start_for_other_data(self):
        guide, first = exact()
        for y, params in ((Y, first), (3 - Y, start(guide, DESIGN, 3 - Y)[2])):
            expected = COVARIANCE @ DESIGN.T @ y / NOISE**2
            np.testing.assert_allclose(params["auto_loc"], expected, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("name", sorted(STRATEGIES))
    def test_init_loc_fn(self, name):
        strategy, is_known = STRATEGIES[name]
        model = lambda: numpyro.sample("x", dist.Gamma(jnp.array([2.0, 6.0]), 2.0).to_event(1))
        guide = AutoFlow(model, linear, init_loc_fn=strategy, init_scale=0.25)
        _, _, params = start(guide)
        assert "auto_loc" not in params
        loc = np.asarray(params["auto_affine.loc"])
        if is_known:
            np.testing.assert_allclose(loc, np.log([0.3, 2.0]), rtol=AGREE_F32)
        posterior = guide.get_posterior(params)
        draws = np.asarray(posterior.sample(KEY, (4000,)))
        assert_mean(draws, loc)
        assert_mean((draws - loc) ** 2, 0.25**2)
        np.testing.assert_allclose(
            posterior.log_prob(draws[0]), stats.norm(loc, 0.25).logpdf(draws[0]).sum(), rtol=1e-5
        )

    def test_an_impossible_start(self):
        model = lambda: numpyro.sample("x", dist.Beta(2.0, 2.0))
        strategy = infer.init_to_value(values={"x": jnp.array(2.0)})
        with (
            pytest.warns(UserWarning, match="Out-of-support"),
            pytest.raises(RuntimeError, match="valid initial parameters"),
        ):
            start(AutoFlow(model, linear, init_loc_fn=strategy))


GUIDES = [
    autoguide.AutoNormal,
    autoguide.AutoDiagonalNormal,
    autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal,
    autoguide.AutoLaplaceApproximation,
]


class TestFromGuide:
    @staticmethod
    @functools.cache
    def trained(kind, is_traced=False):
        """A guide and parameters as if after training, and a flow guide that starts from it."""
        guide = kind(regression)
        svi = infer.SVI(regression, guide, optax.sgd(1e-3), infer.Trace_ELBO())
        init = jax.jit(svi.init) if is_traced else svi.init
        free = svi.optim.get_params(init(KEY, *DATA).optim_state)
        params = svi.constrain_fn(table.perturb(KEY, free, 0.4))
        new = AutoFlow.from_guide(guide, params, linear)
        return guide, params, new, start(new, *DATA)[2]

    @pytest.mark.parametrize("kind", [GUIDES[0], GUIDES[2]])
    def test_it_starts_as_the_other_guide(self, kind):
        guide, params, new, new_params = self.trained(kind)
        draws = new.sample_posterior(KEY, new_params, sample_shape=(4000,))
        others = guide.sample_posterior(jax.random.key(1), params, sample_shape=(4000,))
        for name, value in draws.items():
            for power in (1, 2):
                assert_mean(np.asarray(value) ** power - np.asarray(others[name]) ** power, 0.0)
        ours, theirs = elbos(new, new_params, *DATA), elbos(guide, params, *DATA)
        error = np.sqrt((ours.var() + theirs.var()) / len(ours))
        assert abs(ours.mean() - theirs.mean()) < STANDARD_ERRORS * error

    @pytest.mark.parametrize(
        ("kind", "is_traced"),
        [*((kind, False) for kind in GUIDES), *((kind, True) for kind in GUIDES[:-1])],
    )
    def test_the_density_is_the_same_whatever_the_order_of_the_sites(self, kind, is_traced):
        """With a traced key NumPyro sorts the sites by name."""
        guide, params, new, new_params = self.trained(kind, is_traced)
        latent = np.array([0.5, -0.3, 1.2], np.float32)
        density = new.get_posterior(new_params).log_prob(latent)
        level, slopes = latent[0], latent[1:]
        if kind is autoguide.AutoNormal:
            part = lambda site, value: stats.norm(
                params[f"{site}_auto_loc"], params[f"{site}_auto_scale"]
            ).logpdf(value)
            expected = part("level", level) + part("a_slope", slopes).sum()
        else:
            theirs = np.append(slopes, level) if is_traced else latent
            expected = guide.get_posterior(params).log_prob(theirs).sum()
        np.testing.assert_allclose(density, expected, rtol=1e-5, atol=1e-5)
