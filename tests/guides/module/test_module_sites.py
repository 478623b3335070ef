"""Flows whose parameters are sites: what is registered."""

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
from numpyro.distributions import constraints
from numpyro.distributions.transforms import AffineTransform
from numpyro.infer.util import log_density

import flowdists as fd
from flowdists.guides import flow_module
from tests import table
from tests.guides.module.sites import KEY, TINY, X, affine, conditional, maf, prior, values
from tests.tolerances import AGREE_F32, FINITE_DIFFERENCE_F64

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
        densities = jax.jit(
            lambda: [log_density(model, (), {}, {})[0] for model in (early, late)]
        )()
        np.testing.assert_array_equal(densities[0], densities[1])

    def test_a_factory_may_use_what_the_model_has_drawn(self, x64):
        def model():
            loc = numpyro.sample("loc", dist.Normal(0, 1))
            base = lambda: dist.Normal(jnp.exp(loc), 1.0).expand([2]).to_event(1)
            flow = flow_module("f", lambda key: fd.Flow(base(), affine()))
            numpyro.sample("x", flow, obs=X[0])

        def density(loc):
            return log_density(handlers.seed(model, 0), (), {}, {"loc": loc})[0]

        locs = np.array([0.5, 0.5 + 1e-5, 0.5 - 1e-5])
        values, gradients = jax.jit(jax.vmap(jax.value_and_grad(density)))(locs)
        expected = (values[1] - values[2]) / 2e-5
        np.testing.assert_allclose(gradients[0], expected, rtol=FINITE_DIFFERENCE_F64)
