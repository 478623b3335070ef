"""Errors name the argument, what was given and what was expected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import flowdists as fd
from tests.draws import drawn

KEY = jax.random.key(0)
SMALL = {"num_layers": 2, "hidden_sizes": (8,)}


@functools.cache
def real_nvp(**options):
    return drawn(lambda key: fd.RealNVP(key, (3,), **SMALL, **options))


def conditional():
    return real_nvp(context_shape=(2,))


MISUSE = {
    "event shape": (lambda: real_nvp().log_prob(jnp.ones((5, 4))), ["(5, 4)", "(*batch, 3)"]),
    "integers": (lambda: real_nvp().log_prob(jnp.ones((5, 3), int)), ["int", "floating"]),
    "one dimension": (lambda: fd.RealNVP(KEY, (1,)), ["event_shape", "at least 2", "(1,)"]),
    "one dimension, splines": (lambda: fd.NSF(KEY, (1,)), ["event_shape", "at least 2"]),
    "bins": (lambda: fd.NSF(KEY, (2,), num_bins=1), ["num_bins", "at least 2", "1"]),
    "bound": (lambda: fd.NSF(KEY, (2,), bound=-1.0), ["bound", "positive", "-1"]),
    "context missing": (lambda: conditional().condition(None), ["context", "missing", "2"]),
    "context not given": (lambda: conditional().log_prob(jnp.ones(3)), ["context", "condition"]),
    "context superfluous": (
        lambda: real_nvp().condition(jnp.ones(2)),
        ["context", "context_shape"],
    ),
    "context shape": (
        lambda: conditional().condition(jnp.ones((5, 3))),
        ["context", "(5, 3)", "2"],
    ),
    "context integer": (lambda: conditional().condition(jnp.ones((5, 2), int)), ["context", "int"]),
    "key": (lambda: fd.MAF(0, (3,)), ["key", "jax.random.key", "0"]),
    "key array": (lambda: fd.NSF(jnp.ones(2), (3,)), ["key", "float32"]),
    "key stack": (lambda: fd.IAF(jax.random.split(KEY), (3,)), ["key", "one PRNG key"]),
    "layers": (lambda: fd.MAF(KEY, (3,), num_layers=0), ["num_layers", "at least 1", "0"]),
    "hidden sizes": (lambda: fd.MAF(KEY, (3,), hidden_sizes=(8, 0)), ["hidden_sizes", "(8, 0)"]),
    "event": (lambda: fd.MAF(KEY, (3, -1)), ["event_shape", "positive", "-1"]),
    "mask": (lambda: fd.RealNVP(KEY, (3,), mask="stripes"), ["mask", "stripes", "half"]),
    "mask shape": (lambda: fd.RealNVP(KEY, (3,), mask=[0, 1]), ["mask", "(2,)", "(3,)"]),
    "mask of ones": (lambda: fd.RealNVP(KEY, (3,), mask=[1, 1, 1]), ["mask", "change"]),
    "order": (lambda: fd.MAF(KEY, (3,), order=(0, 0, 1)), ["order", "permutation"]),
    "scale": (lambda: fd.RealNVP(KEY, (3,), scale="cubic"), ["scale", "cubic", "tanh"]),
    "activation": (lambda: fd.NSF(KEY, (3,), activation="rely"), ["activation", "rely"]),
    "base": (lambda: fd.NSF(KEY, (3,), base="normal", **SMALL), ["base", "str"]),
    "base of a flow": (lambda: fd.Flow("normal", fd.Reverse((3,))), ["base", "numpyro", "str"]),
    "base shape": (
        lambda: fd.NSF(KEY, (3,), base=fd.StandardNormal((4,)), **SMALL),
        ["base", "(3,)", "(4,)"],
    ),
    "bijector": (lambda: fd.Flow(fd.StandardNormal((3,)), jnp.tanh), ["transform"]),
    "conditional in Flow": (
        lambda: fd.Flow(fd.StandardNormal((3,)), conditional().bijector),
        ["bijector", "ConditionalFlow"],
    ),
    "base rank": (
        lambda: fd.Flow(dist.Normal(), real_nvp().bijector),
        ["base", "()", "1"],
    ),
    "chain": (
        lambda: fd.Chain([fd.Reverse((3,)), fd.Reverse((4,))]),
        ["layers[1]", "(4,)", "(3,)"],
    ),
    "empty chain": (lambda: fd.Chain([]), ["layers", "none"]),
    "foreign": (lambda: fd.Chain([jnp.tanh]), ["transform"]),
    "repeat": (lambda: fd.Repeat(KEY, lambda k: fd.Reverse((3,)), 0), ["num_layers", "0"]),
    "affine scale": (lambda: fd.Affine(jnp.zeros(2), -jnp.ones(2)), ["scale", "positive", "-1"]),
    "permutation": (lambda: fd.Permute((0, 0)), ["permutation", "(0, 0)"]),
    "support": (lambda: fd.to_support("positive"), ["constraint", "str"]),
    "conditioner": (
        lambda: fd.Coupling(
            KEY, (4,), transformer=fd.RationalQuadratic(), conditioner=lambda x: jnp.ones(3)
        ),
        ["conditioner", "46", "3"],
    ),
    "misspelt option": (lambda: fd.NSF(KEY, (3,), num_layer=3), ["NSF", "num_layer"]),
    "event array": (lambda: fd.NSF(KEY, np.array([3])), ["event_shape", "tuple"]),
    "no hidden sizes": (lambda: fd.NSF(KEY, (3,), hidden_sizes=()), ["hidden_sizes", "one"]),
    "activations": (lambda: fd.NSF(KEY, (3,), activation=["relu"]), ["activation", "relu"]),
    "transformer": (
        lambda: fd.Coupling(KEY, (3,), transformer="spline"),
        ["transformer", "spline"],
    ),
    "inverse of a number": (lambda: fd.Inverse(3), ["transform", "int"]),
    "a layer for a factory": (
        lambda: fd.Repeat(KEY, fd.Reverse((3,)), 2),
        ["make_layer", "function", "Reverse"],
    ),
    "permutation of floats": (lambda: fd.Permute([0.5, 1.2]), ["permutation", "0.5"]),
    "sample key": (lambda: real_nvp().sample(0), ["key", "jax.random.key"]),
    "stack index": (lambda: real_nvp().bijector.layers[0].layers[0][7], ["range"]),
    "context batch": (
        lambda: conditional().condition(jnp.ones((6, 2))).log_prob(jnp.ones((5, 3))),
        ["(5,)", "(6,)", "context"],
    ),
    "conditioner without context": (
        lambda: fd.AffineCoupling(
            KEY, (2,), context_shape=(2,), conditioner=fd.MLP(KEY, 1, 2)
        ).forward_and_log_det(jnp.ones(2), jnp.ones(2)),
        ["context", "context_size"],
    ),
    "discrete base": (
        lambda: fd.Flow(dist.Poisson(jnp.ones(3)).to_event(1), fd.Reverse((3,))),
        ["base", "continuous", "discrete"],
    ),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(case):
    call, words = MISUSE[case]
    with pytest.raises((TypeError, ValueError, AttributeError, IndexError)) as raised:
        call()
    for word in words:
        assert word in str(raised.value)
