"""Flows whose parameters are sites, under NumPyro's handlers."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import TransformReparam
from numpyro.infer.util import log_density

import flowdists as fd
from flowdists.guides import flow_module
from tests.draws import normal
from tests.guides.module.sites import KEY, TINY, X, affine, maf, prior, sites, values
from tests.tolerances import AGREE_F32


class TestHandlers:
    MODEL = staticmethod(prior(fd.MAF, event_shape=(2,), **TINY))

    def test_substituted_parameters_need_no_key(self):
        shapes = jax.eval_shape(lambda: values(self.MODEL))
        given = {k: normal(i, v.shape) for i, (k, v) in enumerate(shapes.items())}
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
        registered = flow_module("f", flow)
        pairs = jax.tree.map(np.array_equal, registered, flow)
        assert all(jax.tree.leaves(pairs))

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
        single = jax.jit(collect)(keys[1])
        for name, value in single.items():
            np.testing.assert_allclose(batched[name][1], value, rtol=1e-5, atol=1e-6)
        params = {k: v for k, v in batched.items() if k != "z"}
        density = lambda params: log_density(
            handlers.condition(self.MODEL, {"z": X[0]}), (), {}, params
        )[0]
        assert jax.eval_shape(jax.vmap(density), params).shape == (3,)

    def test_inside_scan(self):
        layer = fd.Affine(jnp.zeros(()), jnp.array(2.0))

        def model():
            flow = flow_module("f", fd.Flow(dist.Normal(0, 1), layer))

            def step(total, _):
                total = total + numpyro.sample("x", flow)
                return total, total

            numpyro.deterministic("walk", scan(step, 0.0, None, length=4)[1])

        assert sites(model)["walk"]["value"].shape == (4,)
