"""What the flow of a guide may be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import infer
from scipy import stats

import flowdists as fd
from flowdists.guides import AutoFlow
from tests.guides.autoflow.regression import DATA, KEY, TINY, linear, regression, start

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
# As functions, because distributions and flows are computed.
FLOWS = {
    "recipe": lambda: (fd.IAF, TINY),
    "partial": lambda: (functools.partial(fd.RealNVP, num_layers=2), {"hidden_sizes": (8,)}),
    "function": lambda: (lambda key, event_shape: fd.MAF(key, event_shape, **TINY), {}),
    "student": lambda: (fd.MAF, {"base": dist.StudentT(5.0), **TINY}),
    "uniform": lambda: (fd.RealNVP, {"base": fd.StandardUniform((3,), -1.0, 1.0), **TINY}),
    "built": lambda: (
        fd.Flow(dist.StudentT(5.0).expand((3,)).to_event(1), fd.Affine(jnp.zeros(3), jnp.ones(3))),
        {},
    ),
    "a layer": lambda: (linear, {}),
}


class TestFlows:
    @pytest.mark.parametrize("name", sorted(FLOWS))
    def test_what_a_flow_may_be(self, name):
        flow, options = FLOWS[name]()
        guide = AutoFlow(regression, flow, init_loc_fn=infer.init_to_median, **options)
        svi, state, params = start(guide, *DATA)
        is_built = isinstance(flow, fd.Flow)
        made = flow if is_built else jax.eval_shape(lambda: flow(KEY, (3,), **options))
        own = {key for key in params if not key.startswith("auto_affine")}
        assert len(own) == len(jax.tree.leaves(made.bijector))
        base, transform = guide.get_base_dist(), guide.get_transform(params)
        assert type(base) is type(made.base)
        # New flows are the identity, so that what is left is the affine layer on the base.
        loc, log_scale = (np.asarray(params[f"auto_affine.{n}"]) for n in ("loc", "log_scale"))
        z = np.array([0.4, -0.7, 0.1], np.float32)
        moved = loc + np.exp(log_scale) * z
        np.testing.assert_allclose(transform(z), moved, rtol=1e-5, atol=1e-5)
        expected = base.log_prob(z) - log_scale.sum()
        density = guide.get_posterior(params).log_prob(moved)
        np.testing.assert_allclose(density, expected, rtol=1e-5, atol=1e-5)
        if "base" in options:
            state, loss = jax.jit(svi.update)(state, *DATA)
            moved = svi.get_params(state)
            assert np.isfinite(loss)
            assert all(np.isfinite(value).all() for value in moved.values())
            assert any(np.any(np.asarray(moved[key]) != params[key]) for key in own)

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
            "auto_affine.log_scale": jnp.array([0.5 * np.log(0.8)]),
        }
        evidence = stats.norm(1.0, 5**0.5).logpdf(-1.0)
        loss = infer.Trace_ELBO().loss(KEY, exact, model, guide)
        np.testing.assert_allclose(-loss, evidence, rtol=1e-5)
        assert guide.sample_posterior(KEY, params, sample_shape=(5,))["x"].shape == (5,)
