"""The flow guide on models that ask for care: moving supports, odd derivatives, minibatches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax.experimental.ode import odeint
from numpyro import infer
from numpyro.infer.util import log_density, potential_energy
from scipy import special

import flowdists as fd
from flowdists.guides import AutoFlow, fit_guide
from flowdists.guides.pathfinder import MAX_HESSIAN_DIM, pathfinder
from tests.guides.autoflow.regression import KEY, elbos, linear, perturbed, run, start
from tests.tolerances import FINITE_DIFFERENCE_F64, LOG_DET_F64, ROUND_TRIP_F64, STANDARD_ERRORS


def params_of(guide, *args):
    """The guide's parameters before training."""
    return start(guide, *args)[2]


def triangle():
    """Uniform on the part of the unit square below its diagonal, weighted by 1 / (1 - a)."""
    a = numpyro.sample("a", dist.Uniform(0.0, 1.0))
    numpyro.sample("b", dist.Uniform(0.0, 1.0 - a))


def from_data(y):
    x = numpyro.sample("x", dist.Uniform(y.min(), y.max()))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


class TestSupportsOfEachRun:
    @pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
    @pytest.mark.parametrize("args", [(triangle,), (from_data, np.array([-1.0, 0.5, 2.0]))])
    def test_the_elbo_is_that_of_the_potential(self, args, is_compiled, x64):
        """Also where the bounds that the guide saw first belong to a program that is over."""
        model, *data = args
        data = list(map(jnp.asarray, data))
        guide = AutoFlow(model, linear, init_loc_fn=None if is_compiled else infer.init_to_median)
        svi = infer.SVI(model, guide, optax.sgd(1e-3), infer.Trace_ELBO())
        params = svi.get_params((jax.jit(svi.init) if is_compiled else svi.init)(KEY, *data))

        @jax.jit
        @functools.partial(jax.vmap, in_axes=(0, None, None))
        def evaluate(key, params, data):
            trace = run(guide, params, *data, key=key)
            u = trace["_auto_latent"]["value"]
            sites = {name: site["value"] for name, site in trace.items() if name in "abx"}
            log_q, _ = log_density(guide, data, {}, params | {"_auto_latent": u})
            log_p, _ = log_density(model, data, {}, sites)
            potential = potential_energy(model, data, {}, guide._unpack_latent(u))
            return log_p - log_q, -potential - guide.get_posterior(params).log_prob(u)

        data = [3 * y for y in data]
        elbo, expected = evaluate(jax.random.split(KEY, 3), perturbed(params), data)
        np.testing.assert_allclose(elbo, expected, rtol=LOG_DET_F64)

    def test_both_ways_to_draw_are_on_the_supports_of_each_draw(self, x64):
        guide = AutoFlow(triangle, linear, init_loc_fn=infer.init_to_median, init_scale=1.0)

        @jax.jit
        def draw(params, keys):
            def values(key):
                trace = run(guide, params, key=key)
                return [trace[name]["value"] for name in ("_auto_latent", "a", "b")]

            traced = jax.vmap(values)(keys)
            drawn = guide.sample_posterior(KEY, params, sample_shape=keys.shape)
            latent = guide.get_posterior(params).sample(KEY, keys.shape)
            return traced, [latent, drawn["a"], drawn["b"]]

        for u, a, b in draw(perturbed(params_of(guide)), jax.random.split(KEY, 50)):
            assert np.std(u, 0).min() > 0.5
            expected = special.expit(u)
            expected[:, 1] *= 1 - expected[:, 0]
            np.testing.assert_allclose(np.stack([a, b], 1), expected, rtol=ROUND_TRIP_F64)

    @pytest.mark.slow
    @pytest.mark.heavy
    def test_training_and_sampling_are_of_one_distribution(self):
        """Against the model's moments, by both ways to draw."""
        guide = AutoFlow(triangle, fd.RealNVP, num_layers=4, hidden_sizes=(16,))
        params, losses = fit_guide(KEY, guide, num_steps=2000, progress=False)
        assert np.median(losses[-200:]) < 0.05  # the evidence is one
        drawn = guide.sample_posterior(KEY, params, sample_shape=(4000,))
        predictive = infer.Predictive(guide, params=params, num_samples=4000)
        for draws in (drawn, predictive(jax.random.key(1))):
            a, b = (np.asarray(draws[name], np.float64) for name in "ab")
            assert ((b > 0) & (b < 1 - a)).all()
            for value, expected in ((a, 1 / 2), (b, 1 / 4), (a * b, 1 / 12), (b**2, 1 / 9)):
                error = value.std() / 4000**0.5
                assert abs(value.mean() - expected) < STANDARD_ERRORS * error + 0.01

    def test_a_guide_with_fixed_supports_does_not_run_the_model(self):
        runs = []

        def model(y):
            runs.append(None)
            x = numpyro.sample("x", dist.Gamma(2.0, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

        # No Pathfinder: not optimizing, XLA of JAX 0.12 never ends its line search here.
        guide = AutoFlow(model, linear, init_loc_fn=infer.init_to_median)
        params = params_of(guide, 1.0)
        runs.clear()
        assert "x" in infer.Predictive(guide, params=params, num_samples=3)(KEY)
        assert not runs


def ordinary(x):
    return (x**4).sum()


@jax.custom_vjp
def own_reverse(x):
    """The same with a reverse rule only."""
    return (x**4).sum()


own_reverse.defvjp(lambda x: (own_reverse(x), x), lambda x, g: (4 * g * x**3,))


@jax.custom_vjp
def without_second(x):
    """The same with a gradient that has no derivative either: a loop of unknown length."""
    return (x**4).sum()


def _by_a_loop(x, g):
    powers = jax.lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x), (0, 4 * g * jnp.ones_like(x))
    )
    return (powers[1],)


without_second.defvjp(lambda x: (without_second(x), x), _by_a_loop)


def predators_and_prey():
    def flow(z, t, rates):
        growth, eaten, death, fed = rates
        prey, predators = z
        return jnp.stack([(growth - eaten * predators) * prey, (fed * prey - death) * predators])

    typical = jnp.log(jnp.array([0.5, 0.1, 0.5, 0.1]))
    rates = numpyro.sample("rates", dist.LogNormal(typical, 0.1).to_event(1))
    z = odeint(flow, jnp.array([5.0, 4.0]), jnp.arange(3.0), rates, rtol=1e-5, atol=1e-4)
    numpyro.sample("y", dist.LogNormal(jnp.log(z), 0.3).to_event(2), obs=4 * jnp.ones((3, 2)))


def shape_of_a_gamma():
    a = numpyro.sample("a", dist.LogNormal(0.0, 0.5))
    numpyro.factor("censored", jnp.log(jax.scipy.special.gammainc(a, 1.0)))


class TestDerivatives:
    @staticmethod
    @functools.cache
    def start_of(power, dim):
        center = np.linspace(-1.0, 2.0, dim)

        def potential(x):
            return power(x - center) + 2 * ((x - center) ** 2).sum() + x.sum()

        return jax.jit(lambda x: pathfinder(KEY, potential, x))(np.zeros(dim))

    @pytest.mark.parametrize("power", [own_reverse, without_second])
    @pytest.mark.parametrize("dim", [2, MAX_HESSIAN_DIM + 1])
    def test_pathfinder_has_the_curvature_all_the_same(self, power, dim, x64):
        found, expected = self.start_of(power, dim), self.start_of(ordinary, dim)
        tolerance = ROUND_TRIP_F64 if power is own_reverse else FINITE_DIFFERENCE_F64
        np.testing.assert_allclose(found.loc, expected.loc, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(found.scale, expected.scale, rtol=tolerance, atol=tolerance)

    @pytest.mark.heavy
    @pytest.mark.parametrize(
        "model", [pytest.param(predators_and_prey, marks=pytest.mark.slow), shape_of_a_gamma]
    )
    def test_the_default_guide_starts(self, model):
        losses = []
        for init_loc_fn in (None, infer.init_to_median):
            guide = AutoFlow(model, linear, init_loc_fn=init_loc_fn)
            losses.append(-elbos(guide, params_of(guide), num=100).mean())
        assert np.isfinite(losses[0]) and losses[0] < losses[1]


ROWS = np.random.default_rng(0).normal(3.0, 2.0, size=1000)


def by_indices(y):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(y), subsample_size=5) as rows:
        numpyro.sample("y", dist.Normal(mean, 2.0), obs=y[rows])


def by_subsample(y):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(y), subsample_size=5):
        batch = numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(mean, 2.0), obs=batch)


def by_argument(batch):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(ROWS), subsample_size=len(batch)):
        numpyro.sample("y", dist.Normal(mean, 2.0), obs=batch)


class TestSubsampledPlates:
    DEVIATION = (1 / 10**2 + len(ROWS) / 2**2) ** -0.5

    @pytest.mark.parametrize("model", [by_indices, by_subsample])
    def test_the_start_is_that_of_all_rows(self, model):
        params = params_of(AutoFlow(model, linear), jnp.asarray(ROWS))
        mode = self.DEVIATION**2 * ROWS.sum() / 2**2
        assert abs(params["auto_loc"][0] - mode) < 0.1 * self.DEVIATION
        np.testing.assert_allclose(params["auto_scale"][0, 0], self.DEVIATION, rtol=1e-3)

    def test_of_rows_that_are_too_many_a_part(self, monkeypatch):
        monkeypatch.setattr("flowdists.guides.start.MAX_ROWS", 800)
        params = params_of(AutoFlow(by_indices, linear), jnp.asarray(ROWS))
        mode = self.DEVIATION**2 * ROWS.sum() / 2**2
        # Four rows of five, each counted for 5/4: as far off as the root of 1000/800 - 1.
        distance = abs(params["auto_loc"][0] - mode)
        assert 0.01 * self.DEVIATION < distance < STANDARD_ERRORS * 0.5 * self.DEVIATION

    def test_a_model_that_is_given_its_rows_starts_from_these(self):
        batch = ROWS[:50]
        params = params_of(AutoFlow(by_argument, linear), jnp.asarray(batch))
        mode = self.DEVIATION**2 * len(ROWS) * batch.mean() / 2**2
        assert abs(params["auto_loc"][0] - mode) < 0.1 * self.DEVIATION
