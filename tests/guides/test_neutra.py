"""Neural transport: the density that the sampler sees, what it costs, and what it draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers, infer
from numpyro.diagnostics import effective_sample_size
from numpyro.distributions import biject_to
from numpyro.infer import autoguide
from numpyro.infer.util import potential_energy

import flowdists as fd
from flowdists.guides import AutoFlow, NeuTraReparam, fit_guide
from tests import table
from tests.draws import normal
from tests.tolerances import LOG_DET_F64, ROUND_TRIP_F32, STANDARD_ERRORS

KEY = jax.random.key(0)
TINY = {"num_layers": 2, "hidden_sizes": (8,)}
Y = np.array([0.5, -1.0, 2.0])
LATENT = "auto_shared_latent"


def in_a_plate(y):
    """The first latent site stands in a plate; others are constrained, and outside of it."""
    with numpyro.plate("rows", len(y)):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.Gamma(2.0, 1.0))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    numpyro.deterministic("sum", x.sum() * scale)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x * weights[0], scale), obs=y)


def plain(y):
    scale = numpyro.sample("scale", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(y)):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x, scale), obs=y)


def ready(guide, *args, scale=0.3):
    """The guide's parameters, moved as by training."""
    svi = infer.SVI(guide.model, guide, optax.sgd(1e-3), infer.Trace_ELBO())
    state = svi.init(KEY, *args)
    free = table.perturb(jax.random.key(3), svi.optim.get_params(state.optim_state), scale)
    return svi.constrain_fn(free)


def auto_flow(model, flow=fd.RealNVP, **options):
    return AutoFlow(model, flow, init_loc_fn=infer.init_to_median, **TINY | options)


def by_change_of_variables(guide, params, z):
    """The model's potential at the transported point, minus the transport's log-determinant."""
    transform = guide.get_transform(params)
    _, log_det = jnp.linalg.slogdet(jax.jacobian(transform)(z))
    sites = guide._unpack_latent(transform(z))
    return potential_energy(guide.model, (Y,), {}, sites) - log_det


GUIDES = {
    "flow": lambda model: auto_flow(model),
    "student": lambda model: auto_flow(model, base=dist.StudentT(5.0)),
    "diagonal": autoguide.AutoDiagonalNormal,
    "normal": autoguide.AutoMultivariateNormal,
    "iaf": lambda model: autoguide.AutoIAFNormal(model, num_flows=2),
}


@functools.cache
def _trained(name, model, x64):
    guide = GUIDES[name](model)
    return guide, ready(guide, Y)


def trained(name="flow", model=in_a_plate):
    """A guide and its parameters, in the present precision."""
    return _trained(name, model, jax.config.jax_enable_x64)


class TestDensity:
    @pytest.mark.parametrize(
        ("name", "model"), [("flow", plain), *((name, in_a_plate) for name in sorted(GUIDES))]
    )
    def test_it_is_the_change_of_variables(self, name, model, x64):
        guide, params = trained(name, model)

        @jax.jit
        def potentials(params, z):
            reparametrized = NeuTraReparam(guide, params).reparam(model)
            found = potential_energy(reparametrized, (Y,), {}, {LATENT: z})
            return found, by_change_of_variables(guide, params, z)

        found, expected = potentials(params, normal(0, (guide.latent_dim,)))
        np.testing.assert_allclose(found, expected, rtol=LOG_DET_F64)

    def test_numpyros_own_counts_the_transport_once_for_each_row(self, x64):
        guide, params = trained()

        @jax.jit
        def evaluate(params, z):
            ours, theirs = (
                potential_energy(cls(guide, params).reparam(in_a_plate), (Y,), {}, {LATENT: z})
                for cls in (NeuTraReparam, infer.reparam.NeuTraReparam)
            )
            return ours - theirs, guide.get_transform(params).forward_and_log_det(z)[1]

        difference, log_det = evaluate(params, normal(0, (guide.latent_dim,)))
        assert abs(log_det) > 0.1
        np.testing.assert_allclose(difference, (len(Y) - 1) * log_det, rtol=LOG_DET_F64)

    def test_a_bounded_base(self, x64):
        """NumPyro's sampler then works in unbounded space, with one more determinant."""
        base = fd.StandardUniform((4,), -2.0, 2.0)
        guide = auto_flow(plain, base=base)

        @jax.jit
        def potentials(params, u):
            model = NeuTraReparam(guide, params).reparam(plain)
            to_base = biject_to(base.support)
            z = to_base(u)
            expected = by_change_of_variables(guide, params, z)
            expected -= to_base.log_abs_det_jacobian(u, z)
            return potential_energy(model, (Y,), {}, {LATENT: u}), expected

        found, expected = potentials(ready(guide, Y), normal(0, (4,)))
        np.testing.assert_allclose(found, expected, rtol=LOG_DET_F64)

    def test_draws_are_transported_with_deterministic_sites(self):
        guide, params = trained()

        @jax.jit
        def transport(params, z):
            draws = NeuTraReparam(guide, params).transform_sample(z)
            return draws, guide.get_transform(params)(z)

        draws, u = jax.tree.map(np.asarray, transport(params, normal(0, (2, 5, 5))))
        assert {name: value.shape for name, value in draws.items()} == {
            "x": (2, 5, 3),
            "scale": (2, 5),
            "weights": (2, 5, 2),
            "sum": (2, 5),
        }
        np.testing.assert_allclose(
            draws["sum"], draws["x"].sum(-1) * draws["scale"], rtol=ROUND_TRIP_F32
        )
        np.testing.assert_allclose(draws["x"], u[..., :3], rtol=ROUND_TRIP_F32)
        np.testing.assert_allclose(draws["scale"], np.exp(u[..., 3]), rtol=ROUND_TRIP_F32)

    def test_the_prior_predictive_of_the_reparametrized_model(self):
        model = NeuTraReparam(*trained()).reparam(in_a_plate)
        trace = handlers.trace(handlers.seed(model, 0)).get_trace(Y)
        assert trace[LATENT]["value"].shape == (5,)
        assert trace["x"]["type"] == "deterministic"
        with handlers.mask(mask=False):  # no density is asked for
            assert handlers.trace(handlers.seed(model, 0)).get_trace(Y)["x"]["value"].shape == (3,)


class TestMisuse:
    def test_other_guides(self):
        with pytest.raises(TypeError, match="AutoContinuous"):
            NeuTraReparam(autoguide.AutoNormal(plain), {})
        with pytest.raises(ValueError, match="SVI"):
            NeuTraReparam(auto_flow(plain), {})

    def test_observed_where_the_guide_saw_a_latent_and_as_good_as_new_afterwards(self):
        neutra = NeuTraReparam(*trained("diagonal", plain))
        potential = lambda model: potential_energy(model, (Y,), {}, {LATENT: jnp.ones(4)})
        before = potential(neutra.reparam(plain))
        with pytest.raises(ValueError, match=r"'x' is observed"):
            potential(neutra.reparam(handlers.condition(plain, {"x": Y})))
        np.testing.assert_array_equal(potential(neutra.reparam(plain)), before)


class TestCost:
    @pytest.mark.parametrize(
        ("recipe", "most"),
        [
            (fd.NSF, 0.55),
            (fd.IAF, 0.55),
            # NumPyro's second evaluation is in the cheap direction, a single pass.
            (fd.MAF, 0.75),
        ],
    )
    def test_one_evaluation_to_numpyros_two(self, recipe, most):
        """Operations of a value and gradient, before XLA merges what occurs twice."""
        model = lambda: numpyro.sample("x", dist.Normal(0, 1).expand([8]).to_event(1))
        guide = AutoFlow(model, recipe, init_loc_fn=infer.init_to_median)
        svi = infer.SVI(model, guide, optax.sgd(1e-3), infer.Trace_ELBO())
        shapes = jax.eval_shape(lambda: svi.get_params(svi.init(KEY)))

        def flops(cls):
            def potential(z, params):
                reparametrized = cls(guide, params).reparam(model)
                return potential_energy(reparametrized, (), {}, {LATENT: z})

            lowered = jax.jit(jax.value_and_grad(potential)).lower(jnp.ones(8), shapes)
            return lowered.cost_analysis()["flops"]

        assert flops(NeuTraReparam) <= most * flops(infer.reparam.NeuTraReparam)


def banana():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(x**2, 0.5))


@pytest.mark.heavy
@pytest.mark.slow
def test_nuts_draws_a_banana():
    """Of known moments: x is standard normal, y has mean 1, variance 2 + 1/4, and covariance 2
    with the square of x.
    """
    # A smooth network, for what is not smooth is hard to follow for NUTS.
    guide = AutoFlow(banana, fd.RealNVP, num_layers=2, hidden_sizes=(16,), activation="silu")
    params, _ = fit_guide(KEY, guide, num_steps=1000, progress=False)
    neutra = NeuTraReparam(guide, params)
    kernel = infer.NUTS(neutra.reparam(banana))
    sampler = infer.MCMC(kernel, num_warmup=300, num_samples=2000, progress_bar=False)
    sampler.run(jax.random.key(1))
    draws = neutra.transform_sample(sampler.get_samples()[LATENT])
    x, y = (np.asarray(draws[name], np.float64) for name in "xy")
    for value, expected in (
        (x, 0.0),
        (x**2, 1.0),
        (y, 1.0),
        ((y - 1) ** 2, 2.25),
        ((y - 1) * (x**2 - 1), 2.0),
        (y - x**2, 0.0),
        ((y - x**2) ** 2, 0.25),
    ):
        error = np.sqrt(value.var() / effective_sample_size(value[None]))
        assert abs(value.mean() - expected) < STANDARD_ERRORS * error
