"""Flows as priors under NUTS: posteriors in closed form, and bounds that the chain keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers, infer
from numpyro.contrib.control_flow import scan
from numpyro.diagnostics import effective_sample_size
from numpyro.infer.reparam import TransformReparam

import flowdists as fd
from tests.guides.priors.flows import (
    BOUNDED,
    KEY,
    ONE_OF_EACH_KIND,
    affine,
    bounded,
    interval,
    linear,
    normal,
    one_of_each_kind,
    uniform,
)
from tests.tolerances import STANDARD_ERRORS

WAYS = ("direct", "reparametrized")


def by_name(site):
    """Reparametrizes the sites whose names say so."""
    return TransformReparam() if site["name"].endswith("reparametrized") else None


def chain(model, *args, num_warmup=400, num_samples=1000):
    """NUTS draws of every site, and how many of them diverged."""

    @jax.jit
    def run(key, *args):
        sampler = infer.MCMC(
            infer.NUTS(model), num_warmup=num_warmup, num_samples=num_samples, progress_bar=False
        )
        sampler.run(key, *args)
        return sampler.get_samples(), sampler.get_extra_fields()["diverging"]

    samples, diverging = jax.tree.map(np.asarray, run(jax.random.key(5), *args))
    return samples, diverging.sum()


def assert_means(samples, expected, variance=0.0):
    """The mean of correlated samples is ``expected``, itself a mean of that ``variance``."""
    samples = np.asarray(samples, np.float64)
    own = samples.var(0) / effective_sample_size(samples[None])
    errors = np.abs(samples.mean(0) - expected) / np.sqrt(own + variance)
    assert (errors < STANDARD_ERRORS).all(), errors


def assert_moments(samples, mean, covariance):
    centered = np.asarray(samples, np.float64) - mean
    assert_means(centered, 0.0)
    assert_means(centered[:, :, None] * centered[:, None, :], covariance)


@jax.jit
def direct_draws(flow, samples):
    """Independent draws, and whether those of a chain are in the support."""
    return flow.sample(jax.random.key(8), (20_000,)), flow.support(samples)


def assert_draws_of(flow, samples):
    """First and second moments are those of independent draws, and all lie in the support."""
    direct, inside = map(np.asarray, direct_draws(flow, samples))
    assert inside.all()
    assert_means(samples, direct.mean(0), direct.var(0) / len(direct))
    assert_means(samples**2, (direct**2).mean(0), (direct**2).var(0) / len(direct))


class TestGaussian:
    """An affine flow of a normal is a normal; with a normal likelihood, so is the posterior.

    One chain draws from all of the posteriors, which are independent.
    """

    NOISE = 0.8
    DATA = np.array([[1.0, -1.0], [2.0, 0.5], [0.5, -3.0]])

    @classmethod
    def observe(cls, name, flow, data):
        z = numpyro.sample(name, flow)
        with numpyro.plate(f"{name}: observations", 3):
            numpyro.sample(f"{name}: y", dist.Normal(z, cls.NOISE).to_event(1), obs=data)

    @classmethod
    def model(cls, flow):
        for way in WAYS:
            cls.observe(f"alone, {way}", flow, cls.DATA)
            with numpyro.plate(f"rows, {way}", 2):
                cls.observe(f"in a plate, {way}", flow, np.stack([cls.DATA, cls.DATA], axis=1))

            def step(carry, data, way=way):
                cls.observe(f"in a scan, {way}", flow, data)
                return carry, None

            steps = jnp.asarray(np.stack([cls.DATA, cls.DATA]))
            scan(handlers.reparam(step, config=by_name), 0.0, steps)

    @classmethod
    @functools.cache
    def posterior(cls):
        flow = normal(linear(), affine())
        samples, divergences = chain(handlers.reparam(cls.model, config=by_name), flow)
        assert divergences == 0
        mixing, shift = flow.bijector.layers
        scale = np.diag(np.exp(np.asarray(shift.log_scale, np.float64)))
        matrix = scale @ np.asarray(mixing.matrix, np.float64)
        mean = scale @ np.asarray(mixing.bias, np.float64) + np.asarray(shift.loc)
        precision = np.linalg.inv(matrix @ matrix.T)
        covariance = np.linalg.inv(precision + len(cls.DATA) / cls.NOISE**2 * np.eye(2))
        mean = covariance @ (precision @ mean + cls.DATA.sum(0) / cls.NOISE**2)
        return samples, mean, covariance

    @pytest.mark.heavy
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("where", ["alone", "in a plate", "in a scan"])
    def test_the_posterior_is_the_closed_form(self, where, way):
        """Every row or step has the posterior that it would have alone."""
        samples, mean, covariance = self.posterior()
        for z in np.moveaxis(samples[f"{where}, {way}"].reshape(1000, -1, 2), 1, 0):
            assert_moments(z, mean, covariance)


@functools.cache
def prior_chain(names):
    """One chain over the flows of these names, independent of each other, in both ways."""
    flows = {name: BOUNDED[name]() for name in names}

    def model(flows):
        for name, flow in flows.items():
            for way in WAYS:
                numpyro.sample(f"{name}, {way}", flow)

    samples, divergences = chain(handlers.reparam(model, config=by_name), flows)
    assert divergences == 0
    return flows, samples


class TestBounded:
    @pytest.mark.heavy
    @pytest.mark.parametrize("way", WAYS)
    @one_of_each_kind
    def test_nuts_draws_the_prior_and_stays_inside(self, name, way):
        flows, samples = prior_chain(ONE_OF_EACH_KIND)
        assert_draws_of(flows[name], samples[f"{name}, {way}"])

    @pytest.mark.slow
    @pytest.mark.heavy
    @pytest.mark.parametrize("way", WAYS)
    @bounded
    def test_nuts_draws_every_prior_and_stays_inside(self, name, way):
        flows, samples = prior_chain(tuple(BOUNDED))
        assert_draws_of(flows[name], samples[f"{name}, {way}"])

    @one_of_each_kind
    def test_chains_start_inside(self, name):
        strategies = {
            "uniform": infer.init_to_uniform,
            "median": infer.init_to_median,
            "sample": infer.init_to_sample,
        }

        def model(flow):
            for strategy in strategies:
                numpyro.sample(strategy, flow)

        def by_strategy(site):
            return strategies[site["name"]](site)

        @jax.jit
        def start(key, flow):
            initialized = infer.util.initialize_model(
                key, model, model_args=(flow,), init_strategy=functools.partial(by_strategy)
            )
            found = initialized.param_info
            drawn = initialized.postprocess_fn(found.z)
            inside = {strategy: flow.support(drawn[strategy]) for strategy in strategies}
            return found.potential_energy, found.z_grad, inside

        potential, gradient, inside = start(KEY, BOUNDED[name]())
        assert np.isfinite(potential)
        for strategy in strategies:
            assert np.isfinite(gradient[strategy]).all()
            assert inside[strategy]


# Flows on intervals of length one above a number that is drawn itself.
HIERARCHIES = {
    "base": lambda low: fd.Flow(
        dist.Uniform(low, low + 1.0).expand([2]).to_event(1), fd.Reverse((2,))
    ),
    "layer": lambda low: uniform(fd.Affine(low * jnp.ones(2), jnp.ones(2))),
    "bounds": lambda low: normal(interval(low, low + 1.0)),
    "bound of a scalar": lambda low: fd.Flow(dist.Normal(), interval(low, low + 1.0)),
    "an event of two": lambda low: fd.Flow(
        fd.StandardUniform((1,)).expand((2,)), fd.Affine(low[None], jnp.ones(1))
    ).to_event(1),
}


class TestSupportsThatDependOnOtherVariables:
    """NumPyro maps the draws of a chain to their supports at the end, when others have moved."""

    @staticmethod
    @functools.cache
    def samples():
        def model():
            low = numpyro.sample("low", dist.Normal(0.0, 10.0))
            for name, flow in HIERARCHIES.items():
                numpyro.sample(name, flow(low))

        return chain(model, num_warmup=100, num_samples=100)[0]

    @pytest.mark.parametrize("name", sorted(HIERARCHIES))
    def test_each_draw_lies_in_its_own(self, name):
        samples = self.samples()
        z = samples[name]
        low = samples["low"].reshape(-1, *[1] * (z.ndim - 1))
        assert np.ptp(low) > 1.0
        offset = z - low
        assert ((offset > 0) & (offset < 1)).all()


@pytest.mark.slow
@pytest.mark.heavy
def test_a_trained_flow_is_a_prior():
    noise = np.random.default_rng(7).normal(size=(1000, 2))
    data = jnp.asarray(np.stack([noise[:, 0], noise[:, 0] ** 2 + 0.5 * noise[:, 1]], -1))
    flow = fd.NSF(KEY, (2,), num_layers=2, hidden_sizes=(16,), num_bins=4)
    flow = fd.fit(KEY, flow, data, max_epochs=20, progress=False).flow

    def model(y):
        z = numpyro.sample("z", flow)
        numpyro.sample("y", dist.Normal(z[1], 0.3), obs=y)

    samples, divergences = chain(model, 2.0)
    assert divergences == 0
    # Against importance sampling from the prior.
    z = np.asarray(flow.sample(jax.random.key(1), (50_000,)))
    weights = np.exp(-0.5 * ((z[:, 1] - 2.0) / 0.3) ** 2)
    weights /= weights.sum()
    mean = weights @ z
    assert_means(samples["z"], mean, weights**2 @ (z - mean) ** 2)
