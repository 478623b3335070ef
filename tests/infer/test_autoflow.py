"""The flow guide: where it starts, its density on every support, its gradients and their cost."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers, infer
from numpyro.distributions import biject_to, constraints
from numpyro.infer import autoguide
from numpyro.infer.util import log_density, potential_energy
from scipy import stats

import flowdists as fd
from flowdists.infer import AutoFlow, flow_module
from flowdists.infer.start import MAX_HESSIAN_DIM, pathfinder
from tests import table
from tests.tolerances import (
    AGREE_F32,
    FINITE_DIFFERENCE_F64,
    LOG_DET_F64,
    ROUND_TRIP_F64,
    STANDARD_ERRORS,
)

KEY = jax.random.key(0)
TINY = {"num_layers": 2, "hidden_sizes": (8,)}

RNG = np.random.default_rng(0)
DESIGN = RNG.normal(size=(6, 3))
Y = RNG.normal(1.0, 2.0, size=6)
PRIOR_VARIANCE = np.array([4.0, 1.0, 1.0])
NOISE = 0.7


def regression(design, y):
    """A normal posterior. The sites, in this order, are neither sorted nor of one shape."""
    level = numpyro.sample("level", dist.Normal(0.0, 2.0))
    with numpyro.plate("columns", 2):
        slopes = numpyro.sample("a_slope", dist.Normal(0.0, 1.0))
    mean = numpyro.deterministic("mean", design @ jnp.append(level, slopes))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mean, NOISE), obs=y)


DATA = (DESIGN, Y)
EVIDENCE = stats.multivariate_normal(
    np.zeros(6), DESIGN * PRIOR_VARIANCE @ DESIGN.T + NOISE**2 * np.eye(6)
).logpdf(Y)
COVARIANCE = np.linalg.inv(np.diag(1 / PRIOR_VARIANCE) + DESIGN.T @ DESIGN / NOISE**2)
MEAN = COVARIANCE @ DESIGN.T @ Y / NOISE**2


def start(guide, *args, loss=None, key=KEY, **kwargs):
    """A guide's parameters before training, and the SVI they are of."""
    loss = infer.Trace_ELBO() if loss is None else loss
    svi = infer.SVI(guide.model, guide, optax.adam(1e-2), loss)
    state = svi.init(key, *args, **kwargs)
    return svi, state, svi.get_params(state)


@functools.cache
def exact():
    """A guide that is exact, and its parameters; for double precision."""
    guide = AutoFlow(regression, fd.RealNVP, **TINY)
    return guide, start(guide, *DATA)[2]


def perturbed(params, scale=0.3):
    """Parameters as if after training. The start is held, as in training."""
    moved = {name: v for name, v in params.items() if name not in ("auto_loc", "auto_scale")}
    return params | table.perturb(jax.random.key(3), moved, scale)


def run(guide, params, *args, key=KEY):
    seeded = handlers.seed(handlers.substitute(guide, params), key)
    return handlers.trace(seeded).get_trace(*args)


def elbos(guide, params, *args, num=4000):
    """One particle's ELBO, for each of many keys."""
    one = lambda key: -infer.Trace_ELBO().loss(key, params, guide.model, guide, *args)
    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, num)), np.float64)


def assert_mean(draws, expected):
    draws = np.asarray(draws, np.float64)
    errors = np.abs(draws.mean(0) - expected) / (draws.std(0) / len(draws) ** 0.5)
    assert (errors < STANDARD_ERRORS).all(), errors


@pytest.fixture(scope="module")
def fitted():
    """A guide of the regression with parameters away from their start."""
    guide = AutoFlow(regression, fd.RealNVP, **TINY)
    _, _, params = start(guide, *DATA)
    return guide, perturbed(params)


# Supports: constraint, shape of one value, and the coordinates in which NumPyro's density is.
tril = lambda offset: lambda x: x[jnp.tril_indices(x.shape[-1], offset)]
everything = lambda x: x.ravel()
SUPPORTS = {
    "real": (constraints.real, (), everything),
    "positive": (constraints.positive, (), everything),
    "softplus_positive": (constraints.softplus_positive, (), everything),
    "greater_than": (constraints.greater_than(-1.5), (), everything),
    "less_than": (constraints.less_than(0.5), (), everything),
    "interval": (constraints.interval(-1.0, 3.0), (), everything),
    "unit_interval": (constraints.unit_interval, (), everything),
    "open_interval": (constraints.open_interval(0.0, 2.0), (), everything),
    "circular": (constraints.circular, (), everything),
    "real_vector": (constraints.real_vector, (3,), everything),
    "real_matrix": (constraints.real_matrix, (2, 3), everything),
    "independent": (constraints.independent(constraints.positive, 1), (3,), everything),
    "ordered": (constraints.ordered_vector, (3,), everything),
    "positive_ordered": (constraints.positive_ordered_vector, (3,), everything),
    "simplex": (constraints.simplex, (3,), lambda x: x[:-1]),
    "zero_sum": (constraints.zero_sum(1), (3,), None),
    "l1_ball": (constraints.l1_ball, (3,), everything),
    "corr_cholesky": (constraints.corr_cholesky, (3, 3), tril(-1)),
    "corr_matrix": (constraints.corr_matrix, (3, 3), tril(-1)),
    "covariance": (constraints.positive_definite, (3, 3), tril(0)),
    "lower_cholesky": (constraints.lower_cholesky, (3, 3), tril(0)),
    "scaled_unit_lower_cholesky": (
        constraints.scaled_unit_lower_cholesky,
        (3, 3),
        tril(0),
    ),
}


class TestSupports:
    @pytest.mark.parametrize("name", sorted(SUPPORTS))
    def test_the_density_is_that_of_the_unconstrained_flow_over_the_jacobian(self, name, x64):
        support, shape, coordinates = SUPPORTS[name]

        def model():
            with numpyro.plate("pair", 2):
                numpyro.sample("x", dist.ImproperUniform(support, (), shape))

        transform = biject_to(support)
        free_shape = transform.inverse_shape(shape)
        size = 2 * math.prod(free_shape)
        layer = fd.Affine(0.3 * jnp.cos(jnp.arange(size)), 0.5 + jnp.arange(size) / size)
        flow = fd.Flow(fd.StandardNormal((size,)), layer)
        guide = AutoFlow(model, flow, init_loc_fn=infer.init_to_uniform, init_scale=1.0)

        def log_jacobian(row):
            if coordinates is None:  # on a subspace; the map is an isometry
                jacobian = jax.jacobian(transform)(row)
                return 0.5 * jnp.linalg.slogdet(jacobian.T @ jacobian)[1]
            flat = lambda u: coordinates(transform(u.reshape(free_shape)))
            return jnp.linalg.slogdet(jax.jacobian(flat)(row.ravel()))[1]

        def draw(key):
            trace = handlers.trace(handlers.seed(guide, key)).get_trace()
            params = {k: site["value"] for k, site in trace.items() if site["type"] == "param"}
            latent, drawn = trace["_auto_latent"]["value"], trace["x"]["value"]
            density, _ = log_density(guide, (), {}, {**params, "_auto_latent": latent})
            expected = guide.get_posterior(params).log_prob(latent)
            return drawn, density, expected - sum(map(log_jacobian, latent.reshape(2, *free_shape)))

        drawn, density, expected = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 10))
        assert drawn.shape == (10, 2, *shape)
        assert support(drawn).all()
        np.testing.assert_allclose(density, expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)

    def test_a_support_that_depends_on_another_site(self):
        def model():
            low = numpyro.sample("low", dist.Normal(0, 1))
            numpyro.sample("x", dist.Uniform(low, low + 1))

        guide = AutoFlow(model, fd.RealNVP, **TINY)
        _, _, params = start(guide)
        draws = guide.sample_posterior(KEY, params, sample_shape=(50,))
        assert ((draws["x"] > draws["low"]) & (draws["x"] < draws["low"] + 1)).all()

    def test_spheres_are_refused_by_name(self):
        model = lambda: numpyro.sample("x", dist.ImproperUniform(constraints.sphere, (), (3,)))
        with pytest.raises(ValueError, match=r"spherical sample site 'x'"):
            start(AutoFlow(model, fd.RealNVP, **TINY))


LOSSES = {
    "elbo": infer.Trace_ELBO(num_particles=3),
    "mean_field": infer.TraceMeanField_ELBO(num_particles=2),
    "graph": infer.TraceGraph_ELBO(num_particles=2),
    "renyi": infer.RenyiELBO(alpha=0.5, num_particles=3),
}


class TestLosses:
    def test_pathfinder_is_exact_for_a_normal_posterior(self, x64):
        guide, params = exact()
        loc, scale = params["auto_loc"], params["auto_scale"]
        # Points are chosen by their ELBO, whose maximum is flat: half of the digits.
        np.testing.assert_allclose(loc, MEAN, rtol=ROUND_TRIP_F64**0.5)
        np.testing.assert_allclose(scale @ scale.T, COVARIANCE, rtol=ROUND_TRIP_F64)
        expected = stats.multivariate_normal(loc, COVARIANCE).logpdf(MEAN + 0.1)
        density = guide.get_posterior(params).log_prob(MEAN + 0.1)
        np.testing.assert_allclose(density, expected, rtol=LOG_DET_F64)

    @pytest.mark.filterwarnings("error::UserWarning")
    @pytest.mark.parametrize("name", sorted(LOSSES))
    def test_every_particle_of_an_exact_guide_gives_the_evidence(self, name, x64):
        guide, params = exact()
        svi, state, _ = start(guide, *DATA, loss=LOSSES[name], init_params=params)
        state, loss = jax.jit(svi.update)(state, *DATA)
        np.testing.assert_allclose(loss, -EVIDENCE, rtol=ROUND_TRIP_F64)
        for value in jax.tree.leaves(svi.get_params(state)):
            assert value.dtype == jnp.float64 and jnp.isfinite(value).all()

    @pytest.mark.heavy
    def test_training_improves_the_elbo_of_a_curved_posterior(self):
        def model():
            x = numpyro.sample("x", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(x**2, 0.3))

        guide = AutoFlow(model, fd.RealNVP, **TINY)
        svi = infer.SVI(model, guide, optax.adam(1e-2), infer.Trace_ELBO(16))
        losses = svi.run(KEY, 500, progress_bar=False).losses
        # The evidence of a model without data is one.
        assert losses[:20].mean() - 0.3 > losses[-50:].mean() > -0.05

    @pytest.mark.heavy
    def test_subsampled_observations(self):
        y = jnp.asarray(Y)

        def model(batch_size):
            x = numpyro.sample("x", dist.Gamma(2.0, 1.0))
            with numpyro.plate("rows", 6, subsample_size=batch_size):
                batch = numpyro.subsample(y, event_dim=0)
                numpyro.sample("y", dist.Normal(x, 1.0), obs=batch)

        guide = AutoFlow(model, fd.RealNVP, **TINY)
        _, _, params = start(guide, 2)
        assert guide.sample_posterior(KEY, params)["x"].shape == ()
        # Each key draws a batch; the guide's draws are the same ones with batches and without.
        assert_mean(elbos(guide, params, 2) - elbos(guide, params, 6), 0.0)

    @pytest.mark.filterwarnings("error::UserWarning")
    @pytest.mark.parametrize("init", [None, infer.init_to_median])
    def test_under_jit_as_without(self, init):
        """NumPyro orders the sites differently for a traced key; the parameters mean the same."""
        traces = []

        def model(design, y):
            traces.append(None)
            return regression(design, y)

        traced, plain = (AutoFlow(model, fd.RealNVP, init_loc_fn=init, **TINY) for _ in range(2))
        svi = infer.SVI(model, traced, optax.adam(1e-2), infer.TraceMeanField_ELBO())
        update = jax.jit(svi.update)
        state, _ = update(jax.jit(svi.init)(KEY, *DATA), *DATA)
        before = len(traces)
        for shift in (0.0, 1.0):
            state, loss = update(state, DESIGN, Y + shift)
        assert len(traces) == before  # one compilation for all parameters
        assert jnp.isfinite(loss)
        params = perturbed(svi.get_params(state))
        draws = traced.sample_posterior(KEY, params, *DATA, sample_shape=(3,))
        again = plain.sample_posterior(KEY, params, *DATA, sample_shape=(3,))
        assert set(draws) == {"level", "a_slope", "mean"}
        for name, value in draws.items():
            np.testing.assert_allclose(value, again[name], rtol=1e-5, atol=1e-6)
        drawn, expected = (run(guide, params, *DATA) for guide in (traced, plain))
        for name in ("level", "a_slope"):
            np.testing.assert_allclose(
                drawn[name]["value"], expected[name]["value"], rtol=1e-5, atol=1e-6
            )


STRATEGIES = {
    "value": (infer.init_to_value(values={"x": jnp.array([0.3, 2.0])}), True),
    "mean": (infer.init_to_mean(), False),
    "median": (infer.init_to_median(num_samples=3), False),
    "uniform": (infer.init_to_uniform(radius=1), False),
    "sample": (infer.init_to_sample(), False),
    "function": (infer.init_to_median, False),
}


class TestStart:
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

        def model():
            scale = numpyro.sample("scale", dist.Normal(0, 3))
            numpyro.sample("x", dist.Normal(0, jnp.exp(scale / 2)).expand([9]).to_event(1))

        guide = AutoFlow(model, fd.RealNVP, **TINY)
        _, _, params = start(guide)
        values = elbos(guide, params)
        assert np.isfinite(values).all() and values.mean() > -8

    def test_where_no_normal_has_an_elbo_it_starts_as_if_without_pathfinder(self):
        def model():
            x = numpyro.sample("x", dist.Normal(0, 1))
            numpyro.factor("cliff", jnp.where(jnp.abs(x) < 1e-3, 0.0, jnp.nan))

        def near(site):
            return jnp.array(5e-4)

        guide = AutoFlow(model, fd.RealNVP, init_loc_fn=None, **TINY)
        guide.init_loc_fn = functools.partial(near)
        _, _, params = start(guide)
        np.testing.assert_allclose(params["auto_loc"], [5e-4], rtol=AGREE_F32)
        np.testing.assert_allclose(params["auto_scale"], [[0.1]], rtol=AGREE_F32)

    def test_another_start_for_other_data(self):
        guide = AutoFlow(regression, fd.RealNVP, **TINY)
        for y in (Y, 3 - Y):
            _, _, params = start(guide, DESIGN, y)
            expected = COVARIANCE @ DESIGN.T @ y / NOISE**2
            np.testing.assert_allclose(params["auto_loc"], expected, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("name", sorted(STRATEGIES))
    def test_init_loc_fn(self, name):
        strategy, is_known = STRATEGIES[name]
        model = lambda: numpyro.sample("x", dist.Gamma(jnp.array([2.0, 6.0]), 2.0).to_event(1))
        guide = AutoFlow(model, fd.RealNVP, init_loc_fn=strategy, init_scale=0.25, **TINY)
        _, _, params = start(guide)
        assert "auto_loc" not in params
        loc = params["auto_affine.loc"]
        if is_known:
            np.testing.assert_allclose(loc, np.log([0.3, 2.0]), rtol=AGREE_F32)
        posterior = guide.get_posterior(params)
        draws = posterior.sample(KEY, (4000,))
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
            start(AutoFlow(model, fd.RealNVP, init_loc_fn=strategy, **TINY))


GUIDES = [
    autoguide.AutoNormal,
    autoguide.AutoDiagonalNormal,
    autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal,
    autoguide.AutoLaplaceApproximation,
]


class TestFromGuide:
    @staticmethod
    def trained(kind, is_traced=False):
        """A guide and parameters as if after training."""
        guide = kind(regression)
        svi = infer.SVI(regression, guide, optax.sgd(1e-3), infer.Trace_ELBO())
        init = jax.jit(svi.init) if is_traced else svi.init
        free = svi.optim.get_params(init(KEY, *DATA).optim_state)
        return guide, svi.constrain_fn(table.perturb(KEY, free, 0.4))

    @pytest.mark.heavy
    @pytest.mark.parametrize("kind", [GUIDES[0], GUIDES[2]])
    def test_it_starts_as_the_other_guide(self, kind):
        guide, params = self.trained(kind)
        new = AutoFlow.from_guide(guide, params, fd.RealNVP, **TINY)
        _, _, new_params = start(new, *DATA)
        draws = new.sample_posterior(KEY, new_params, sample_shape=(4000,))
        others = guide.sample_posterior(jax.random.key(1), params, sample_shape=(4000,))
        for name, value in draws.items():
            for power in (1, 2):
                assert_mean(value**power - others[name] ** power, 0.0)
        ours, theirs = elbos(new, new_params, *DATA), elbos(guide, params, *DATA)
        error = np.sqrt((ours.var() + theirs.var()) / len(ours))
        assert abs(ours.mean() - theirs.mean()) < STANDARD_ERRORS * error

    @pytest.mark.parametrize(
        ("kind", "is_traced"),
        [*((kind, False) for kind in GUIDES), *((kind, True) for kind in GUIDES[:-1])],
    )
    def test_the_density_is_the_same_whatever_the_order_of_the_sites(self, kind, is_traced):
        """With a traced key NumPyro sorts the sites by name."""
        guide, params = self.trained(kind, is_traced)
        new = AutoFlow.from_guide(guide, params, fd.RealNVP, **TINY)
        _, _, new_params = start(new, *DATA)
        posterior = new.get_posterior(new_params)
        latent = posterior.sample(KEY)
        level, slopes = latent[0], latent[1:]
        if kind is autoguide.AutoNormal:
            part = lambda site, value: stats.norm(
                params[f"{site}_auto_loc"], params[f"{site}_auto_scale"]
            ).logpdf(value)
            expected = part("level", level) + part("a_slope", slopes).sum()
        else:
            theirs = jnp.append(slopes, level) if is_traced else latent
            expected = guide.get_posterior(params).log_prob(theirs).sum()
        np.testing.assert_allclose(posterior.log_prob(latent), expected, rtol=1e-5, atol=1e-5)


ONE_DIMENSION = {
    "nsf": fd.NSF,
    "real_nvp": fd.RealNVP,
    "glow": fd.Glow1D,
    "maf": fd.MAF,
    "iaf": fd.IAF,
    "partial": functools.partial(fd.RealNVP, mask="half"),
    "partial of splines": functools.partial(fd.NSF, num_bins=4),
    "function": lambda key, shape, **options: fd.NSF(key, shape, autoregressive=True, **options),
}
FLOWS = {
    "recipe": (fd.IAF, TINY),
    "partial": (functools.partial(fd.RealNVP, num_layers=2), {"hidden_sizes": (8,)}),
    "function": (lambda key, event_shape: fd.MAF(key, event_shape, **TINY), {}),
    "student": (fd.MAF, {"base": dist.StudentT(5.0), **TINY}),
    "uniform": (fd.RealNVP, {"base": fd.StandardUniform((3,), -1.0, 1.0), **TINY}),
    "built": (fd.MAF(KEY, (3,), base=dist.StudentT(5.0), **TINY), {}),
    "a layer": (
        lambda key, shape: fd.Flow(fd.StandardNormal(shape), fd.LULinear(key, shape)),
        {},
    ),
}


class TestFlows:
    @pytest.mark.parametrize("name", sorted(FLOWS))
    def test_what_a_flow_may_be(self, name):
        flow, options = FLOWS[name]
        guide = AutoFlow(regression, flow, init_loc_fn=infer.init_to_median, **options)
        svi, state, params = start(guide, *DATA)
        made = flow if isinstance(flow, fd.Flow) else flow(KEY, (3,), **options)
        own = {key for key in params if not key.startswith("auto_affine")}
        assert len(own) == len(jax.tree.leaves(made.bijector))
        base, transform = guide.get_base_dist(), guide.get_transform(params)
        assert type(base) is type(made.base)
        # New flows are the identity, so that what is left is the affine layer on the base.
        loc, scale = params["auto_affine.loc"], jnp.exp(params["auto_affine.log_scale"])
        z = 0.5 * base.sample(KEY)
        np.testing.assert_allclose(transform(z), loc + scale * z, rtol=1e-5, atol=1e-5)
        expected = base.log_prob(z) - jnp.log(scale).sum()
        density = guide.get_posterior(params).log_prob(transform(z))
        np.testing.assert_allclose(density, expected, rtol=1e-5, atol=1e-5)
        if "base" in options:
            state, loss = jax.jit(svi.update)(state, *DATA)
            moved = svi.get_params(state)
            assert jnp.isfinite(loss)
            assert all(jnp.isfinite(value).all() for value in moved.values())
            assert any((moved[key] != params[key]).any() for key in own)

    @pytest.mark.parametrize("name", sorted(ONE_DIMENSION))
    def test_one_latent_dimension(self, name):
        """A conjugate model of one scalar."""

        def model():
            x = numpyro.sample("x", dist.Normal(1.0, 2.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=-1.0)

        guide = AutoFlow(model, ONE_DIMENSION[name], init_loc_fn=infer.init_to_median, **TINY)
        _, _, params = start(guide)
        exact = params | {
            "auto_affine.loc": jnp.array([-0.6]),
            "auto_affine.log_scale": jnp.array([0.5 * jnp.log(0.8)]),
        }
        evidence = stats.norm(1.0, 5**0.5).logpdf(-1.0)
        loss = infer.Trace_ELBO().loss(KEY, exact, model, guide)
        np.testing.assert_allclose(-loss, evidence, rtol=1e-5)
        assert guide.sample_posterior(KEY, params, sample_shape=(5,))["x"].shape == (5,)


class TestPosterior:
    def test_names_of_the_parameters(self, fitted):
        _, params = fitted
        assert {"auto_loc", "auto_scale", "auto_affine.loc", "auto_affine.log_scale"} < set(params)
        others = [name for name in params if name.startswith("auto_flow.layers[")]
        assert len(others) == len(params) - 4

    def test_draws_come_with_deterministic_sites(self, fitted):
        guide, params = fitted
        draws = guide.sample_posterior(KEY, params, sample_shape=(2, 3))
        assert {name: v.shape for name, v in draws.items()} == {
            "level": (2, 3),
            "a_slope": (2, 3, 2),
            "mean": (2, 3, 6),
        }
        slopes = jnp.concatenate([draws["level"][..., None], draws["a_slope"]], -1)
        np.testing.assert_allclose(draws["mean"], slopes @ DESIGN.T, rtol=1e-4, atol=1e-4)
        flat = guide.get_posterior(params).sample(KEY, (2, 3))
        np.testing.assert_allclose(slopes, flat, rtol=AGREE_F32)
        other = guide.sample_posterior(KEY, params, 2 * DESIGN, Y, sample_shape=(2, 3))
        np.testing.assert_allclose(other["mean"], 2 * draws["mean"], rtol=1e-4, atol=1e-4)

    def test_transform_and_posterior_agree(self, fitted):
        guide, params = fitted
        z = guide.get_base_dist().sample(KEY, (5,))
        transform, posterior = guide.get_transform(params), guide.get_posterior(params)
        x, log_det = transform.forward_and_log_det(z)
        expected = guide.get_base_dist().log_prob(z) - log_det
        np.testing.assert_allclose(posterior.log_prob(x), expected, rtol=1e-4, atol=1e-4)

    def test_quantiles_and_median(self):
        """At its start the guide is the posterior, a normal."""
        guide = AutoFlow(regression, fd.RealNVP, **TINY)
        _, _, params = start(guide, *DATA)
        probabilities = np.array([0.05, 0.5, 0.9])
        found = guide.quantiles(params, probabilities, num_samples=4000)
        median = guide.median(params, num_samples=4000)
        joint = np.concatenate([found["level"][:, None], found["a_slope"]], -1)
        marginal = stats.norm(MEAN, np.diag(COVARIANCE) ** 0.5)
        expected = marginal.ppf(probabilities[:, None])
        error = np.sqrt((probabilities * (1 - probabilities))[:, None] / 4000)
        error = error / marginal.pdf(expected)
        assert (np.abs(joint - expected) < STANDARD_ERRORS * error).all()
        assert found["mean"].shape == (3, 6)
        for name, value in median.items():
            np.testing.assert_array_equal(value, found[name][1])
        other = guide.median(params, key=jax.random.key(1), num_samples=4000)
        assert other["level"] != median["level"]
        assert guide.quantiles(params, 0.5, num_samples=10)["a_slope"].shape == (2,)

    def test_sites_of_integers_and_booleans_have_quantiles(self):
        def model():
            x = numpyro.sample("x", dist.Normal(0, 1))
            numpyro.deterministic("positive", x > 0)
            numpyro.deterministic("count", jnp.floor(x).astype(int))

        strategy = infer.init_to_value(values={"x": jnp.array(0.0)})
        guide = AutoFlow(model, fd.RealNVP, init_loc_fn=strategy, **TINY)
        _, _, params = start(guide)
        found = guide.quantiles(params, [0.1, 0.9], num_samples=200)
        assert found["positive"].tolist() == [0.0, 1.0]
        assert found["count"].tolist() == [-1.0, 0.0]

    def test_predictive(self, fitted):
        guide, params = fitted

        new = AutoFlow(regression, fd.RealNVP, **TINY)
        found = infer.Predictive(new, params=params, num_samples=7)(KEY, *DATA)
        assert found["a_slope"].shape == (7, 2)
        predictive = infer.Predictive(regression, guide=guide, params=params, num_samples=7)
        assert predictive(KEY, *DATA)["mean"].shape == (7, 6)

    def test_saved_parameters_serve_a_new_guide(self, fitted, tmp_path):
        guide, params = fitted
        np.savez(tmp_path / "params.npz", **params)
        loaded = dict(np.load(tmp_path / "params.npz"))
        new = AutoFlow(regression, fd.RealNVP, **TINY)
        options = {"sample_shape": (5,)}
        draws = new.sample_posterior(KEY, loaded, *DATA, **options)
        for name, value in guide.sample_posterior(KEY, params, **options).items():
            np.testing.assert_array_equal(draws[name], value)

    def test_inside_another_model_the_posterior_is_not_trained(self, fitted):
        guide, params = fitted
        model = lambda: numpyro.sample("z", guide.get_posterior(params))
        assert list(handlers.trace(handlers.seed(model, 0)).get_trace()) == ["z"]

    def test_a_model_with_parameters_of_its_own(self):
        def model():
            scale = numpyro.param("scale", 2.0, constraint=constraints.positive)
            shift = flow_module("shift", fd.Affine(jnp.array(0.5), jnp.array(1.0)))
            x = numpyro.sample("x", dist.Normal(0, 1))
            numpyro.deterministic("y", shift(scale * x))

        guide = AutoFlow(model, fd.RealNVP, init_loc_fn=infer.init_to_median, **TINY)
        svi, state, _ = start(guide)
        params = svi.get_params(svi.update(state)[0]) | {"scale": jnp.array(3.0)}
        assert "shift.loc" in params
        draw = guide.sample_posterior(KEY, params)
        expected = params["shift.loc"] + 3 * draw["x"] * jnp.exp(params["shift.log_scale"])
        np.testing.assert_allclose(draw["y"], expected, rtol=1e-5)

    def test_a_local_latent_variable_for_each_row(self):
        def model():
            scale = numpyro.sample("scale", dist.HalfNormal(1.0))
            with numpyro.plate("rows", 3):
                x = numpyro.sample("x", dist.Normal(0, scale))
                numpyro.sample("y", dist.Normal(x, 1), obs=jnp.arange(3.0))

        guide = AutoFlow(model, fd.RealNVP, prefix="q", init_loc_fn=infer.init_to_median, **TINY)
        _, _, params = start(guide)
        assert all(name.startswith("q_") for name in params)
        trace = run(guide, params)
        density, _ = log_density(
            guide, (), {}, {**params, "_q_latent": trace["_q_latent"]["value"]}
        )
        u = trace["_q_latent"]["value"]
        expected = guide.get_posterior(params).log_prob(u) - u[0]  # the scale's logarithm
        np.testing.assert_allclose(density, expected, rtol=1e-5)


class TestPathDerivative:
    """Gradients, in double precision, with respect to what is trained of the regression's guide."""

    @staticmethod
    @functools.cache
    def guides():
        guide, params = exact()
        params = params | {
            "auto_loc": jnp.asarray(MEAN),
            "auto_scale": jnp.linalg.cholesky(COVARIANCE),
        }
        other = AutoFlow(regression, fd.RealNVP, path_derivative=True, **TINY)
        start(other, *DATA, init_params=params)
        return guide, other, params

    @staticmethod
    def gradients(guide, params, num):
        """One particle's, concatenated, for each of ``num`` keys."""
        held = {name: params[name] for name in ("auto_loc", "auto_scale")}
        free = {name: value for name, value in params.items() if name not in held}

        def loss(free, key):
            return infer.Trace_ELBO().loss(key, free | held, regression, guide, *DATA)

        found = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(free, jax.random.split(KEY, num))
        return np.concatenate([leaf.reshape(num, -1) for leaf in jax.tree.leaves(found)], 1)

    def test_it_is_zero_for_every_particle_of_an_exact_guide(self, x64):
        ordinary, path, params = self.guides()
        np.testing.assert_allclose(self.gradients(path, params, 5), 0.0, atol=ROUND_TRIP_F64)
        assert np.abs(self.gradients(ordinary, params, 5)).max() > 0.1

    @pytest.mark.heavy
    def test_its_mean_is_the_ordinary_gradient(self, x64):
        ordinary, path, params = self.guides()
        params = perturbed(params, 0.1)
        draws = [self.gradients(guide, params, 8000) for guide in (ordinary, path)]
        moving = draws[0].std(0) > 0
        assert moving.sum() > 100
        assert_mean((draws[0] - draws[1])[:, moving], 0.0)
        np.testing.assert_array_equal(draws[1][:, ~moving], 0.0)

    def test_it_is_the_derivative_along_the_path_of_the_draw(self, x64):
        """By finite differences: the draw moves with the parameters, the density does not."""
        _, path, params = self.guides()
        params = perturbed(params, 0.1)
        (gradient,) = self.gradients(path, params, 1)
        key = jax.random.split(KEY, 1)[0]
        frozen = path.get_posterior(params)

        def loss(params):
            # The guide's own draw of this key.
            seeded = handlers.seed(handlers.substitute(path, params), jax.random.split(key)[1])
            latent = handlers.trace(seeded).get_trace(*DATA)["_auto_latent"]["value"]
            energy = potential_energy(regression, DATA, {}, path._unpack_latent(latent))
            return energy + frozen.log_prob(latent)

        held = {name: params[name] for name in ("auto_loc", "auto_scale")}
        free = {name: value for name, value in params.items() if name not in held}
        direction = table.perturb(KEY, jax.tree.map(jnp.zeros_like, free), 1.0)
        step = 1e-5
        ends = [
            loss(held | jax.tree.map(lambda v, d, s=s: v + s * d, free, direction))
            for s in (step, -step)
        ]
        flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(direction)])
        np.testing.assert_allclose(
            gradient @ flat, (ends[0] - ends[1]) / (2 * step), rtol=FINITE_DIFFERENCE_F64
        )


class TestCost:
    def test_an_elbo_evaluates_each_layer_once(self):
        calls = []

        class Counting(fd.Bijector):
            shift: jax.Array

            @property
            def event_shape(self):
                return self.shift.shape

            def forward_and_log_det(self, x, context=None):
                calls.append("forward")
                return x + self.shift, jnp.zeros(())

            def inverse_and_log_det(self, y, context=None):
                calls.append("inverse")
                return y - self.shift, jnp.zeros(())

        flow = fd.Flow(fd.StandardNormal((3,)), Counting(jnp.zeros(3)))
        for path_derivative, expected in ((False, ["forward"]), (True, ["forward", "inverse"])):
            guide = AutoFlow(
                regression,
                flow,
                path_derivative=path_derivative,
                init_loc_fn=infer.init_to_median,
            )
            _, _, params = start(guide, *DATA)
            loss = lambda params, guide=guide: infer.Trace_ELBO(num_particles=16).loss(
                KEY, params, regression, guide, *DATA
            )
            calls.clear()
            jax.jit(jax.value_and_grad(loss)).lower(params)
            assert calls == expected

    @pytest.mark.heavy
    def test_a_gradient_costs_one_evaluation_and_its_derivative(self):
        """Measured by the compiler: no more than the gradient of a draw and its log-determinant."""
        size, particles = 16, 8
        model = lambda: numpyro.sample("x", dist.Normal(0, 1).expand([size]).to_event(1))
        flow = fd.RealNVP(KEY, (size,), num_layers=4, hidden_sizes=(128, 128))
        guide = AutoFlow(model, flow, init_loc_fn=infer.init_to_median)
        _, _, params = start(guide)

        def elbo(params):
            return infer.Trace_ELBO(particles).loss(KEY, params, model, guide)

        def once(bijector, z):
            x, log_det = bijector.forward_and_log_det(z)
            return (x**2).sum() + log_det.sum()

        def flops(function, *args):
            compiled = jax.jit(jax.value_and_grad(function)).lower(*args).compile()
            return compiled.cost_analysis()["flops"]

        z = jnp.ones((particles, size))
        assert flops(elbo, params) < 1.05 * flops(once, flow.bijector, z)


def model_without_latents():
    numpyro.sample("y", dist.Normal(0, 1), obs=1.0)


def model_with(discrete):
    def model():
        k = numpyro.sample("k", discrete)
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x + k, 1), obs=0.0)

    return model


def model_with_local_batches():
    with numpyro.plate("rows", 6, subsample_size=2):
        numpyro.sample("x", dist.Normal(0, 1))


def fresh(**options):
    return AutoFlow(regression, fd.RealNVP, **TINY, **options)


def call(guide, *args):
    return handlers.seed(guide, 0)(*args)


CONDITIONAL = fd.MAF(KEY, (3,), context_shape=(1,), **TINY)
TWO = fd.MAF(KEY, (2,), **TINY)
MISUSE = {
    "no latents": (lambda: call(AutoFlow(model_without_latents)), ["no latent variables"]),
    "bernoulli": (lambda: call(AutoFlow(model_with(dist.Bernoulli(0.5)))), ["discrete", "'k'"]),
    "poisson": (lambda: call(AutoFlow(model_with(dist.Poisson(2.0)))), ["discrete", "'k'"]),
    "local batches": (lambda: call(AutoFlow(model_with_local_batches)), ["local latent"]),
    "dimensions": (
        lambda: call(AutoFlow(regression, TWO), *DATA),
        ["flow", "(3,)", "(2,)", "a_slope"],
    ),
    "batch": (
        lambda: call(AutoFlow(regression, fd.MAF(KEY, (3,), **TINY).expand((2,))), *DATA),
        ["flow", "(3,)", "batch shape (2,)"],
    ),
    "conditional": (lambda: AutoFlow(regression, CONDITIONAL), ["flow", "ConditionalFlow"]),
    "conditional recipe": (
        lambda: call(fresh(context_shape=(1,)), *DATA),
        ["flow", "ConditionalFlow"],
    ),
    "a layer": (lambda: AutoFlow(regression, fd.Reverse((3,))), ["flow", "Reverse"]),
    "a layer returned": (
        lambda: call(AutoFlow(regression, lambda key, shape: fd.Reverse(shape)), *DATA),
        ["flow", "Reverse"],
    ),
    "a number": (lambda: AutoFlow(regression, 3), ["flow", "int"]),
    "options": (lambda: AutoFlow(regression, TWO, num_layers=3), ["num_layers", "built"]),
    "option": (lambda: call(fresh(depth=3), *DATA), ["RealNVP", "depth"]),
    "init_scale": (lambda: fresh(init_scale=0.0), ["init_scale", "positive", "0.0"]),
    "base before": (lambda: fresh().get_base_dist(), ["get_base_dist", "SVI.init"]),
    "posterior before": (lambda: fresh().get_posterior({}), ["get_posterior", "SVI.init"]),
    "transform before": (lambda: fresh().get_transform({}), ["SVI.init"]),
    "median before": (lambda: fresh().median({}), ["SVI.init"]),
    "parameters missing": (
        lambda: fresh().sample_posterior(KEY, {"auto_loc": jnp.zeros(3)}, *DATA),
        ["params", "auto_flow", "auto_loc"],
    ),
    "not a gaussian guide": (
        lambda: AutoFlow.from_guide(autoguide.AutoDelta(regression), {}),
        ["guide", "AutoNormal", "AutoDelta"],
    ),
    "gaussian guide before": (
        lambda: AutoFlow.from_guide(autoguide.AutoNormal(regression), {}),
        ["guide", "SVI.init"],
    ),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    function, words = MISUSE[case]
    with pytest.raises((TypeError, ValueError, RuntimeError)) as raised:
        function()
    for word in words:
        assert word in str(raised.value)


def test_an_error_comes_again():
    guide = AutoFlow(regression, TWO)
    for _ in range(2):
        with pytest.raises(ValueError, match="one dimension for each"):
            call(guide, *DATA)


def test_parameters_of_another_structure_are_refused(fitted):
    _, params = fitted
    wider = AutoFlow(regression, fd.RealNVP, num_layers=2, hidden_sizes=(9,))
    with pytest.raises(ValueError, match=r"auto_flow.*shape"):
        wider.sample_posterior(KEY, params, *DATA)


@pytest.mark.parametrize("probabilities", [1.5, [0.1, -0.1], float("nan")])
def test_quantiles_are_checked(fitted, probabilities):
    guide, params = fitted
    with pytest.raises(ValueError, match=r"`quantiles` must be in \[0, 1\]"):
        guide.quantiles(params, probabilities)
