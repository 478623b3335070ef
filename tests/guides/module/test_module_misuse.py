"""Errors name the argument, what was given and what was expected."""

import functools

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.distributions import constraints

import flowdists as fd
from flowdists.guides import flow_module, random_flow_module


def plated(module):
    with numpyro.plate("rows", 3):
        module()


AFFINE = fd.Affine(jnp.zeros(2), jnp.ones(2))
random_affine = functools.partial(random_flow_module, "f", AFFINE)
MISUSE = {
    "nothing to train": (lambda: flow_module("f", fd.Reverse((2,))), ["flow", "Reverse"]),
    "a number": (lambda: flow_module("f", 3.0), ["flow", "float"]),
    "foreign": (lambda: flow_module("f", fd.to_support(constraints.positive)), ["Support"]),
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
