"""Errors name the argument, what was given and what was expected."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import autoguide

import flowdists as fd
from flowdists.guides import AutoFlow
from tests.guides.autoflow.regression import DATA, KEY, TINY, regression


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


CONDITIONAL = jax.eval_shape(lambda: fd.MAF(KEY, (3,), context_shape=(1,)))
TWO = fd.Flow(fd.StandardNormal((2,)), fd.Reverse((2,)))
THREE = fd.Flow(fd.StandardNormal((3,)), fd.Reverse((3,)))
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
        lambda: call(AutoFlow(regression, THREE.expand((2,))), *DATA),
        ["flow", "batch_shape ()", "(2,)"],
    ),
    "conditional": (lambda: AutoFlow(regression, CONDITIONAL), ["flow", "ConditionalFlow"]),
    "conditional recipe": (
        lambda: call(
            AutoFlow(regression, fd.MAF, context_shape=(1,), num_layers=1, hidden_sizes=(4,)), *DATA
        ),
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
