"""Flows whose parameters are sites of a model or guide: what is registered, and what is learned."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers, infer
from numpyro.contrib.control_flow import scan
from numpyro.diagnostics import effective_sample_size
from numpyro.distributions import constraints
from numpyro.distributions.transforms import AffineTransform
from numpyro.infer.reparam import TransformReparam
from numpyro.infer.util import log_density
from scipy import stats

import flowdists as fd
from flowdists.infer import flow_module, random_flow_module
from tests import table
from tests.tolerances import (
    AGREE_F32,
    FINITE_DIFFERENCE_F64,
    LOG_DET_F64,
    STANDARD_ERRORS,
    TRAINED,
)

KEY = jax.random.key(0)
TINY = {"num_layers": 2, "hidden_sizes": (8,)}
X = jnp.array([[0.3, -0.7], [1.1, 0.2], [-0.4, 0.9]])


def affine(size=2):
    return fd.Affine(jnp.arange(1.0, size + 1), jnp.full(size, 0.5))


def maf():
    return fd.MAF(KEY, (2,), **TINY)


def conditional():
    layer = fd.AffineCoupling(KEY, (2,), context_shape=(1,), hidden_sizes=(8,))
    return fd.ConditionalFlow(fd.StandardNormal((2,)), table.perturb(KEY, layer))


def prior(flow, **options):
    """A model of one draw from a trained flow."""

    def model():
        numpyro.sample("z", flow_module("prior", flow, **options))

    return model


def sites(model, *args, **kwargs):
    return handlers.trace(handlers.seed(model, 0)).get_trace(*args, **kwargs)


def values(model, *args, kind="param", **kwargs):
    trace = sites(model, *args, **kwargs)
    return {name: site["value"] for name, site in trace.items() if site["type"] == kind}


MODULES = {
    "flow": maf,
    "conditional flow": conditional,
    "bijector": lambda: table.build("layer:chain"),
    "network": lambda: fd.MLP(KEY, 2, 3, hidden_sizes=(4,)),
    "equinox": lambda: eqx.nn.MLP(2, 3, width_size=4, depth=1, key=KEY),
    "arrays": lambda: {"weight": jnp.ones((2, 3)), "bias": [jnp.zeros(3)]},
}
FACTORIES = {
    "recipe": (fd.MAF, {"event_shape": (2,), **TINY}),
    "partial": (functools.partial(fd.MAF, event_shape=(2,)), TINY),
    "lambda": (lambda key: fd.MAF(key, (2,), **TINY), {}),
    "class": (fd.AffineCoupling, {"event_shape": (2,), "hidden_sizes": (8,)}),
}


class TestSites:
    @pytest.mark.parametrize("name", sorted(MODULES))
    def test_what_is_built_is_registered_as_it_is(self, name):
        module = MODULES[name]()
        with handlers.trace() as trace:
            registered = flow_module("net", module)
        own = [leaf for leaf in jax.tree.leaves(module) if isinstance(leaf, jax.Array)]
        assert len(trace) == len(own) > 0
        assert all(site["type"] == "param" for site in trace.values())
        assert all(name.startswith("net") for name in trace)
        assert type(registered) is type(module)
        same = lambda a, b: np.array_equal(a, b) if isinstance(b, jax.Array) else a is b
        pairs = zip(jax.tree.leaves(registered), jax.tree.leaves(module), strict=True)
        assert all(same(value, leaf) for value, leaf in pairs)

    @pytest.mark.parametrize("name", sorted(FACTORIES))
    def test_factories_draw_from_the_models_key(self, name):
        flow, options = FACTORIES[name]
        model = lambda: flow_module("net", flow, **options)
        first, again = (handlers.seed(model, 0)() for _ in range(2))
        other = handlers.seed(model, 1)()
        pairs = list(zip(*map(jax.tree.leaves, (first, again, other)), strict=True))
        assert all(np.array_equal(a, b) for a, b, _ in pairs)
        assert any(not np.array_equal(a, c) for a, _, c in pairs)
        assert isinstance(first, type(flow(KEY, **options)))

    def test_a_site_is_called_by_the_path_of_its_leaf(self):
        flow = maf()
        names = values(prior(flow))
        assert "prior.layers[1].log_scale" in names
        for name, value in names.items():
            expression = name.replace("prior", "flow.bijector", 1)
            np.testing.assert_array_equal(eval(expression, {"flow": flow}), value)

    def test_the_base_stays_as_it_is(self):
        base = dist.Normal(jnp.array([1.0, 2.0]), 3.0).to_event(1)
        flow = lambda key: fd.Flow(base, affine())
        assert set(values(prior(flow))) == {"prior.loc", "prior.log_scale"}
        drawn = handlers.seed(lambda: flow_module("f", flow), 0)()
        np.testing.assert_array_equal(drawn.base.base_dist.loc, base.base_dist.loc)

    @pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
    def test_foreign_transforms_stay_untrained(self, wrap):
        def flow(key):
            bounds = fd.to_support(constraints.interval(0.0, jnp.array(2.0)))
            scale = AffineTransform(jnp.zeros(2), jnp.array([2.0, 3.0]))
            return fd.Flow(fd.StandardNormal((2,)), fd.Chain([affine(), scale, bounds]))

        names = set(wrap(lambda: values(prior(flow)))())
        assert names == {"prior.layers[0].loc", "prior.layers[0].log_scale"}

    @pytest.mark.parametrize("is_built", [True, False])
    def test_foreign_transforms_follow_the_values_they_were_made_from(self, is_built):
        def model(scale, x):
            layers = [affine(), AffineTransform(jnp.zeros(2), scale)]
            make = lambda key: fd.Flow(fd.StandardNormal((2,)), fd.Chain(layers))
            numpyro.sample("x", flow_module("f", make(KEY) if is_built else make), obs=x)

        svi = infer.SVI(model, lambda *args: None, optax.sgd(0.0), infer.Trace_ELBO())
        state = jax.jit(svi.init)(KEY, jnp.full(2, 3.0), X[0])
        assert set(svi.get_params(state)) == {"f.layers[0].loc", "f.layers[0].log_scale"}
        loss = jax.jit(svi.evaluate)(state, jnp.full(2, 2.0), X[0])
        expected = -dist.Normal(2 * jnp.arange(1.0, 3.0), 1.0).log_prob(X[0]).sum()
        np.testing.assert_allclose(loss, expected, rtol=10 * AGREE_F32)

    def test_a_context_is_data(self):
        flow = conditional()
        context = jnp.ones((3, 1))
        early = lambda: numpyro.sample("x", flow_module("f", flow.condition(context)), obs=X)
        late = lambda: numpyro.sample("x", flow_module("f", flow).condition(context), obs=X)
        assert set(values(early)) == set(values(late))
        np.testing.assert_array_equal(
            log_density(early, (), {}, {})[0], log_density(late, (), {}, {})[0]
        )

    def test_a_factory_may_use_what_the_model_has_drawn(self, x64):
        def model():
            loc = numpyro.sample("loc", dist.Normal(0, 1))
            base = lambda: dist.Normal(jnp.exp(loc), 1.0).expand([2]).to_event(1)
            flow = flow_module("f", lambda key: fd.Flow(base(), affine()))
            numpyro.sample("x", flow, obs=X[0])

        def density(loc):
            return log_density(handlers.seed(model, 0), (), {}, {"loc": loc})[0]

        step = 1e-5
        expected = (density(0.5 + step) - density(0.5 - step)) / (2 * step)
        gradient = jax.jit(jax.grad(density))(0.5)
        np.testing.assert_allclose(gradient, expected, rtol=FINITE_DIFFERENCE_F64)


class TestHandlers:
    MODEL = staticmethod(prior(fd.MAF, event_shape=(2,), **TINY))

    def test_substituted_parameters_need_no_key(self):
        given = {k: v + 0.1 for k, v in values(self.MODEL).items()}
        flow = handlers.substitute(
            lambda: flow_module("prior", fd.MAF, event_shape=(2,), **TINY), given
        )()
        for name, value in given.items():
            np.testing.assert_array_equal(
                eval(name.replace("prior", "flow.bijector", 1), {"flow": flow}), value
            )
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(flow))

    def test_a_built_flow_needs_neither_key_nor_handler(self):
        flow = maf()
        np.testing.assert_array_equal(flow_module("f", flow).log_prob(X), flow.log_prob(X))

    def test_block_scope_and_lift(self):
        blocked = handlers.block(self.MODEL, hide_fn=lambda site: site["type"] == "param")
        assert list(sites(blocked)) == ["z"]
        assert all(name.startswith("a/prior.") for name in values(handlers.scope(self.MODEL, "a")))
        model = prior(fd.Flow(fd.StandardNormal((2,)), affine()))
        lifted = {
            "prior.loc": dist.Normal(jnp.zeros(2), 1).to_event(1),
            "prior.log_scale": dist.Normal(0, 1).expand([2]).to_event(1),
        }
        drawn = values(handlers.lift(model, lifted), kind="sample")
        assert set(drawn) == {*lifted, "z"}

    def test_densities_under_scale_condition_mask_and_plate(self):
        flow = fd.Flow(fd.StandardNormal((2,)), affine())
        scored = float(flow.log_prob(X[0]))
        conditioned = handlers.condition(prior(flow), {"z": X[0]})

        def rows():
            with numpyro.plate("rows", 3):
                numpyro.sample("z", flow_module("prior", flow), obs=X)

        for model, expected in (
            (conditioned, scored),
            (handlers.scale(conditioned, scale=2.5), 2.5 * scored),
            (handlers.mask(conditioned, mask=False), 0.0),
            (rows, float(flow.log_prob(X).sum())),
        ):
            density, _ = log_density(model, (), {}, {})
            np.testing.assert_allclose(density, expected, rtol=10 * AGREE_F32)

    def test_reparametrized(self):
        flow = fd.Flow(fd.StandardNormal((2,)), affine())
        trace = sites(handlers.reparam(prior(flow), config={"z": TransformReparam()}))
        np.testing.assert_allclose(
            trace["z"]["value"], flow.bijector(trace["z_base"]["value"]), rtol=AGREE_F32
        )

    def test_vmap_over_keys_and_over_parameters(self):
        keys = jax.random.split(KEY, 3)
        run = lambda key: handlers.trace(handlers.seed(self.MODEL, key)).get_trace()
        collect = lambda key: {name: site["value"] for name, site in run(key).items()}
        batched = jax.jit(jax.vmap(collect))(keys)
        single = collect(keys[1])
        for name, value in single.items():
            np.testing.assert_allclose(batched[name][1], value, rtol=1e-5, atol=1e-6)
        params = {k: v for k, v in batched.items() if k != "z"}
        density = lambda params: log_density(
            handlers.condition(self.MODEL, {"z": X[0]}), (), {}, params
        )[0]
        assert jax.vmap(density)(params).shape == (3,)

    def test_inside_scan(self):
        layer = fd.Affine(jnp.zeros(()), jnp.array(2.0))

        def model():
            flow = flow_module("f", fd.Flow(dist.Normal(0, 1), layer))

            def step(total, _):
                total = total + numpyro.sample("x", flow)
                return total, total

            numpyro.deterministic("walk", scan(step, 0.0, None, length=4)[1])

        assert sites(model)["walk"]["value"].shape == (4,)


def train(model, guide, *args, num_steps, num_particles=1):
    """Final parameters, and the losses."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, num_steps))
    svi = infer.SVI(model, guide, optimizer, infer.Trace_ELBO(num_particles))
    result = svi.run(KEY, num_steps, *args, progress_bar=False)
    return result.params, result.losses


class TestLearning:
    def test_a_prior_learned_by_type_two_maximum_likelihood(self):
        """A latent normal plus noise: the evidence is highest where the flow's moments, with the
        noise, are those of the data. The guide can be exact.
        """
        y = np.random.default_rng(0).normal([2.0, -1.0], [1.5, 2.5], size=(200, 2))

        def model(y):
            flow = flow_module("prior", fd.Flow(fd.StandardNormal((2,)), affine()))
            with numpyro.plate("rows", len(y)):
                z = numpyro.sample("z", flow)
                numpyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)

        def guide(y):
            slope = numpyro.param("slope", jnp.zeros(2))
            base = dist.Normal(slope * y, 1.0).to_event(1)
            encoder = flow_module("encoder", fd.Affine(jnp.zeros(2), jnp.ones(2)))
            with numpyro.plate("rows", len(y)):
                numpyro.sample("z", fd.Flow(base, encoder))

        params, _ = train(model, guide, jnp.asarray(y), num_steps=1500)
        scale = np.sqrt(np.exp(2 * params["prior.log_scale"]) + 1)
        evidence = stats.norm(params["prior.loc"], scale).logpdf(y).sum()
        highest = stats.norm(y.mean(0), y.std(0)).logpdf(y).sum()
        assert highest - TRAINED * len(y) < evidence <= highest

    def test_a_learned_density_comes_close_to_the_one_that_drew_the_data(self):
        rng = np.random.default_rng(1)
        first = rng.normal(size=1000)
        x = jnp.asarray(np.stack([first, 0.5 * first**2 + 0.3 * rng.normal(size=1000)], -1))
        truth = stats.norm.logpdf(x[:, 0]) + stats.norm.logpdf(x[:, 1], 0.5 * x[:, 0] ** 2, 0.3)

        def model(x):
            flow = flow_module("prior", fd.MAF, event_shape=(2,), **TINY)
            with numpyro.plate("rows", len(x)):
                numpyro.sample("x", flow, obs=x)

        _, losses = train(model, lambda x: None, x, num_steps=300)
        start, end = losses[0] / len(x), losses[-1] / len(x)
        entropy, error = -truth.mean(), truth.std() / len(x) ** 0.5
        # The flow has seen the data, the truth has not; neither can gain much.
        assert entropy - STANDARD_ERRORS * error < end < entropy + 0.1 < start - 0.5

    def test_in_a_guide(self):
        y = jnp.array([1.5, -0.5])

        def model():
            z = numpyro.sample("z", fd.StandardNormal((2,)))
            numpyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)

        def guide():
            layer = flow_module("q", fd.Affine(jnp.zeros(2), jnp.ones(2)))
            numpyro.sample("z", fd.Flow(fd.StandardNormal((2,)), layer))

        params, _ = train(model, guide, num_steps=600, num_particles=16)
        guided = dist.Normal(params["q.loc"], jnp.exp(params["q.log_scale"]))
        posterior = dist.Normal(0.8 * y, 0.2**0.5)
        assert dist.kl_divergence(guided, posterior).sum() < TRAINED

    def test_gradients_reach_a_context(self, x64):
        flow = conditional()
        x = jnp.asarray(X, float)

        def model(slope):
            conditional = flow_module("f", flow)
            with numpyro.plate("rows", len(x)):
                numpyro.sample("x", conditional.condition(slope * x[:, :1]), obs=x)

        def loss(slope):
            return infer.Trace_ELBO().loss(KEY, {}, model, lambda slope: None, slope)

        step = 1e-5
        expected = (loss(0.7 + step) - loss(0.7 - step)) / (2 * step)
        assert abs(expected) > 0.1
        np.testing.assert_allclose(jax.grad(loss)(0.7), expected, rtol=FINITE_DIFFERENCE_F64)

    def test_one_compilation_for_all_parameters(self):
        traces = []

        def model(x):
            traces.append(None)
            numpyro.sample("x", flow_module("f", fd.MAF, event_shape=(2,), **TINY), obs=x)

        svi = infer.SVI(model, lambda x: None, optax.adam(0.1), infer.Trace_ELBO())
        update = jax.jit(svi.update)
        state, _ = update(jax.jit(svi.init)(KEY, X[0]), X[0])
        before = len(traces)
        for _ in range(3):
            state, loss = update(state, X[0])
        assert len(traces) == before
        assert jnp.isfinite(loss)


class TestRandomModule:
    FLOW = staticmethod(lambda: fd.Flow(fd.StandardNormal((2,)), affine()))

    @pytest.mark.parametrize(
        ("priors", "sampled"),
        [
            (dist.Normal(0, 1), {".loc", ".log_scale"}),
            (dist.Normal(jnp.zeros(2), 1.0), {".loc", ".log_scale"}),
            (dist.Normal(jnp.zeros(2), 1.0).to_event(1), {".loc", ".log_scale"}),
            ({".loc": dist.Normal(0, 1)}, {".loc"}),
            (lambda path, shape: dist.Normal(jnp.zeros(shape), 1), {".loc", ".log_scale"}),
            (lambda path, shape: None if "loc" in path else dist.Normal(), {".log_scale"}),
        ],
    )
    def test_priors(self, priors, sampled):
        model = lambda: numpyro.sample("z", random_flow_module("f", self.FLOW(), priors))
        trace = sites(model)
        kinds = {name: site["type"] for name, site in trace.items() if name != "z"}
        kinds = {name.removeprefix("f"): kind for name, kind in kinds.items()}
        expected = {k: "sample" if k in sampled else "param" for k in (".loc", ".log_scale")}
        assert kinds == expected
        for path in sampled:
            site = trace["f" + path]
            assert site["fn"].event_shape == site["value"].shape == (2,)
            np.testing.assert_allclose(
                site["fn"].log_prob(site["value"]),
                stats.norm.logpdf(site["value"]).sum(),
                rtol=1e-5,
            )

    def test_recipes(self):
        model = lambda: numpyro.sample(
            "z", random_flow_module("f", fd.MAF, dist.Normal(0, 0.1), event_shape=(2,), **TINY)
        )
        drawn = values(model, kind="sample")
        params = values(prior(fd.MAF, event_shape=(2,), **TINY))
        assert {name.removeprefix("f") for name in drawn} == {
            *(name.removeprefix("prior") for name in params),
            "z",
        }
        for name, value in params.items():
            assert drawn[name.replace("prior", "f", 1)].shape == value.shape

    @pytest.mark.heavy
    def test_nuts_draws_the_posterior_of_a_bayesian_flow(self):
        """Two parameters, a shift and a logarithm of a scale; their posterior, on a grid."""
        x = np.random.default_rng(2).normal(1.0, 2.0, size=(8, 1))
        priors = {".loc": dist.Normal(0.0, 2.0), ".log_scale": dist.Normal(0.5, 0.5)}

        def model():
            layer = random_flow_module("f", fd.Affine(jnp.zeros(1), jnp.ones(1)), priors)
            with numpyro.plate("rows", len(x)):
                numpyro.sample("x", fd.Flow(fd.StandardNormal((1,)), layer), obs=jnp.asarray(x))

        sampler = infer.MCMC(
            infer.NUTS(model), num_warmup=300, num_samples=1500, progress_bar=False
        )
        sampler.run(KEY)
        draws = sampler.get_samples()
        loc, log_scale = np.meshgrid(
            np.linspace(-6, 8, 701), np.linspace(-1.5, 3, 701), indexing="ij"
        )
        log_mass = stats.norm(0, 2).logpdf(loc) + stats.norm(0.5, 0.5).logpdf(log_scale)
        log_mass += stats.norm.logpdf(x[:, :, None], loc, np.exp(log_scale)).sum(0)
        mass = np.exp(log_mass - log_mass.max())
        for name, grid in (("f.loc", loc), ("f.log_scale", log_scale)):
            mean = (mass * grid).sum() / mass.sum()
            variance = (mass * (grid - mean) ** 2).sum() / mass.sum()
            own = np.asarray(draws[name], np.float64)[:, 0]
            for values, expected in ((own, mean), ((own - mean) ** 2, variance)):
                error = np.sqrt(values.var() / effective_sample_size(values[None]))
                assert abs(values.mean() - expected) < STANDARD_ERRORS * error

    def test_unconstrained_density_is_that_of_the_hand_written_model(self, x64):
        x = jnp.asarray(X, float)

        def model():
            flow = random_flow_module("f", self.FLOW(), dist.Normal(0.2, 2.0))
            with numpyro.plate("rows", len(x)):
                numpyro.sample("x", flow, obs=x)

        loc, log_scale = jnp.array([0.1, -0.3]), jnp.array([0.4, 0.2])
        density, _ = log_density(model, (), {}, {"f.loc": loc, "f.log_scale": log_scale})
        expected = stats.norm(0.2, 2.0).logpdf(np.stack([loc, log_scale])).sum()
        expected += stats.norm.logpdf(x, loc, np.exp(log_scale)).sum()
        np.testing.assert_allclose(density, expected, rtol=LOG_DET_F64)


def plated(module):
    with numpyro.plate("rows", 3):
        module()


AFFINE = fd.Affine(jnp.zeros(2), jnp.ones(2))
random_affine = functools.partial(random_flow_module, "f", AFFINE)
MISUSE = {
    "nothing to train": (lambda: flow_module("f", fd.Reverse((2,))), ["flow", "Reverse"]),
    "a number": (lambda: flow_module("f", 3.0), ["flow", "float"]),
    "foreign": (lambda: flow_module("f", fd.to_support(constraints.positive)), ["Foreign"]),
    "name": (lambda: flow_module(AFFINE, "f"), ["name", "string", "Affine"]),
    "options": (lambda: flow_module("f", AFFINE, num_layers=2), ["num_layers", "Affine"]),
    "option": (lambda: flow_module("f", fd.MAF, event_shape=(2,), depth=2), ["MAF", "depth"]),
    "value": (
        lambda: handlers.substitute(lambda: flow_module("f", AFFINE), {"f.loc": jnp.ones(3)})(),
        ["f.loc", "(2,)", "(3,)"],
    ),
    "prior": (lambda: random_affine(3.0), ["prior", ".loc", "float"]),
    "prior returned": (lambda: random_affine(lambda path, shape: 1.0), ["prior", ".loc", "float"]),
    "prior shape": (
        lambda: random_affine(dist.Normal(jnp.zeros(3), 1)),
        ["prior", ".loc", "(2,)", "(3,)"],
    ),
    "prior event": (
        lambda: random_affine(dist.Dirichlet(jnp.ones(1))),
        ["prior", ".loc", "(2,)", "(1,)"],
    ),
    "prior event rank": (
        lambda: random_affine(dist.Normal(0, 1).expand([1, 2]).to_event(2)),
        ["prior", ".loc", "(2,)", "(1, 2)"],
    ),
    "prior names": (lambda: random_affine({".scale": dist.Normal()}), ["prior", ".scale"]),
    "in a plate": (
        lambda: plated(lambda: random_affine(dist.Normal())),
        ["f.loc", "(2,)", "(3, 2)", "plate"],
    ),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    call, words = MISUSE[case]
    with handlers.seed(rng_seed=0), pytest.raises((TypeError, ValueError)) as raised:
        call()
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("wrap", [lambda f: f, handlers.trace])
def test_without_a_key_nothing_can_be_drawn(wrap):
    with pytest.raises(ValueError, match=r"key.*seed"):
        wrap(lambda: flow_module("f", fd.MAF, event_shape=(2,)))()
