"""Errors name the argument, what was given and what was expected."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import infer

import flowdists as fd
from tests.guides.amortized.models import (
    KEY,
    SMALL,
    built,
    drawn_params,
    gaussian_guide,
    hierarchical,
    linear_gaussian,
    network,
    small_guide,
    start_shapes,
    two_plates,
)


def local(event_size):
    return built(fd.MAF, event_shape=(event_size,), context_shape=(3,), **SMALL)


WHOLE = built(fd.MAF, event_shape=(2,), **SMALL)


class TestMisuse:
    X = jnp.asarray(np.ones(6))

    @staticmethod
    def no_local(x):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    @staticmethod
    def discrete(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("k", dist.Bernoulli(0.5))

    @pytest.mark.parametrize(
        "model, args, options, message",
        [
            (no_local, (), {}, "there must be local latent sites"),
            (no_local, (), {"plate": "data"}, "inside of the plate 'data'"),
            (linear_gaussian, (), {"plate": "rows"}, r"one of the model's plates, \['data'\]"),
            (discrete, (), {}, r"discrete ones: \['k'\]"),
            (two_plates, (), {}, r"several plates have latent sites, \['data', 'others'\]"),
            (two_plates, (3, 2), {}, "several plates have latent sites"),
            (two_plates, (3, 2), {"plate": "data"}, "'a' is inside of 'others', which is sub"),
            (linear_gaussian, (2,), {"features": lambda x, b: x[:3]}, "a row for each datum"),
            (linear_gaussian, (), {"features": lambda x: 1.0}, "a row for each datum"),
            (linear_gaussian, (), {"encoder": network(2)}, "`encoder` must map a row of shape"),
            (
                linear_gaussian,
                (),
                {"encoder": network(), "features": lambda x: jnp.ones((6, 2, 1))},
                r"a row of shape \(2, 1\) to a vector of floats, got float32\[2, 3\]",
            ),
            (
                linear_gaussian,
                (),
                {"flow": local(event_size=2), "flow_options": None},
                r"`flow` must have event_shape \(1,\), got \(2,\)",
            ),
            (
                hierarchical,
                (),
                {"flow": local(event_size=1), "flow_options": None},
                r"`flow` must have context_shape \(4,\), got \(3,\)",
            ),
            (
                hierarchical,
                (),
                {"global_flow": WHOLE, "global_options": None},
                r"`global_flow` must have event_shape \(1,\), got \(2,\)",
            ),
        ],
    )
    def test_when_it_runs(self, model, args, options, message):
        model = getattr(model, "__func__", model)
        with pytest.raises(ValueError, match=message):
            start_shapes(small_guide(model, **options), self.X, *args)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"encoder": 3}, "`encoder` must be a callable pytree"),
            ({"features": jnp.ones(3)}, "`features` must be a function"),
            ({"flow": WHOLE}, "returns a ConditionalFlow, or a Conditional"),
            ({"global_flow": 3}, "`global_flow` must be a recipe"),
            ({"flow": local(event_size=1)}, "is built already"),
        ],
    )
    def test_kinds(self, options, message):
        with pytest.raises(TypeError, match=message):
            small_guide(linear_gaussian, **options)

    def test_a_recipe_of_another_kind(self):
        guide = small_guide(linear_gaussian, flow=lambda key, shape, **_: fd.MAF(key, shape))
        with pytest.raises(TypeError, match="must give a ConditionalFlow, got Flow"):
            start_shapes(guide, self.X)

    def test_nothing_to_see(self):
        guide = small_guide(lambda *, x: linear_gaussian(x))
        with pytest.raises(TypeError, match="first positional argument"):
            guide.sample_posterior(KEY, {}, x=self.X)

    def test_a_network_without_parameters(self):
        class Nothing(eqx.Module):
            def __call__(self, row):
                return row

        with pytest.raises(TypeError, match="floating-point arrays to train"):
            start_shapes(small_guide(linear_gaussian, Nothing()), self.X)

    def test_init_scale(self):
        with pytest.raises(ValueError, match="`init_scale` must be positive"):
            small_guide(linear_gaussian, init_scale=0.0)

    def test_before_its_first_run(self):
        guide = small_guide(linear_gaussian)
        for ask in (lambda: guide.local_posterior({}, self.X), lambda: guide.global_posterior({})):
            with pytest.raises(ValueError, match="has not seen its model yet"):
                ask()

    def test_globals_that_are_not_there(self):
        guide = gaussian_guide(linear_gaussian)
        params = drawn_params(guide, self.X)
        with pytest.raises(ValueError, match="no global latent variables"):
            guide.global_posterior(params)
        with pytest.raises(ValueError, match="does not see it"):
            guide.local_posterior(params, self.X, jnp.zeros(1))

    def test_globals_that_are_missing(self):
        guide = gaussian_guide(hierarchical, context_size=2)
        params = drawn_params(guide, self.X)
        with pytest.raises(ValueError, match=r"given, of shape \(\*batch, 1\)"):
            guide.local_posterior(params, self.X)

    def test_parameters_that_are_missing(self):
        guide = gaussian_guide(linear_gaussian)
        params = drawn_params(guide, self.X)
        missing = sorted(params)[0]
        del params[missing]
        with pytest.raises(ValueError, match="AutoAmortizedFlow: `params` must hold") as raised:
            guide.local_posterior(params, self.X)
        assert missing in str(raised.value)

    def test_a_model_whose_latent_variables_change(self):
        def model(x, size):
            with numpyro.plate("data", len(x)):
                numpyro.sample("z", dist.Normal(jnp.zeros(size), 1.0).to_event(1))

        flow = built(fd.MAF, event_shape=(2,), context_shape=(1,), **SMALL)
        guide = gaussian_guide(model, flow=flow)
        params = drawn_params(guide, self.X, 2)
        with pytest.raises(ValueError, match="only the size of the data's plate may change"):
            infer.Trace_ELBO().loss(KEY, params, model, guide, self.X, 3)
