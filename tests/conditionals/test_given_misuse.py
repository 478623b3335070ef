"""Errors name the argument, what was given and what was expected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import flowdists as fd
from flowdists.conditionals.given import given
from tests.conditionals.flows import NORMAL, SMALL, few, flow_of, made, standard
from tests.draws import drawn


class Root(fd.Bijector):
    """A layer with a parameter that must not be negative."""

    square: jax.Array

    @property
    def event_shape(self):
        return self.square.shape

    def forward_and_log_det(self, x, context=None):
        return x / jnp.sqrt(-jnp.abs(self.square)), jnp.zeros(())

    def inverse_and_log_det(self, y, context=None):
        return y * jnp.sqrt(-jnp.abs(self.square)), jnp.zeros(())


@functools.cache
def maf():
    return few("MAF", order="ascending")


MISUSE = {
    "not a flow": (lambda: given(NORMAL, (0,), np.ones(1)), TypeError, ["Flow", "Normal"]),
    "conditional": (
        lambda: given(few("MAF", context_shape=(2,)), (0,), np.ones(1)),
        TypeError,
        ["ConditionalFlow", "condition"],
    ),
    "batch": (
        lambda: given(maf().expand((3,)), (0,), np.ones(1)),
        ValueError,
        ["(3,)", "jax.vmap"],
    ),
    "matrices": (
        lambda: given(drawn(lambda key: fd.MAF(key, (2, 2), **SMALL)), (0,), np.ones(1)),
        ValueError,
        ["vectors", "(2, 2)"],
    ),
    "simplex": (
        lambda: given(standard(2, fd.to_support(constraints.simplex)), (0,), np.ones(1)),
        ValueError,
        ["same length", "(2,)", "(3,)"],
    ),
    "simplex and back": (
        lambda: given(
            standard(
                2,
                fd.to_support(constraints.simplex),
                fd.Reverse((3,)),
                fd.to_support(constraints.simplex).inv,
            ),
            (0,),
            np.ones(1),
        ),
        ValueError,
        ["vectors of 2 elements", "Inverse"],
    ),
    "ordered": (
        lambda: given(standard(2, fd.to_support(constraints.ordered_vector)), (0,), np.ones(1)),
        ValueError,
        ["one by one", "Ordered"],
    ),
    "dependent base": (
        lambda: given(
            flow_of(dist.MultivariateNormal(np.zeros(2), np.eye(2)), made(2)), (0,), np.ones(1)
        ),
        TypeError,
        ["base", "independent", "MultivariateNormal"],
    ),
    "flow as base": (
        lambda: given(fd.Flow(maf(), fd.Reverse((4,))), (0,), np.ones(1)),
        TypeError,
        ["base", "independent", "Flow"],
    ),
    "unknowable": (
        lambda: given(standard(2, Root(np.ones(2))), (0,), np.ones(1)),
        ValueError,
        ["Root", "not finite"],
    ),
    "mixed": (
        lambda: given(maf(), (2,), np.ones(1)),
        ValueError,
        ["[2]", "with the elements [0, 1];", "first elements of [0, 1, 2, 3]"],
    ),
    "mixed up": (
        lambda: given(few("MAF"), (0, 1), np.ones(2)),
        ValueError,
        ["[0, 1]", "elements [2, 3];", "no element could", "MAF(order='ascending')"],
    ),
    "indices of another kind": (
        lambda: given(maf(), (0.0,), np.ones(1)),
        TypeError,
        ["`indices`", "ints"],
    ),
    "an index": (lambda: given(maf(), 0, np.ones(1)), TypeError, ["`indices`", "sequence"]),
    "a mask": (
        lambda: given(maf(), [True, False, False, False], np.ones(1)),
        TypeError,
        ["`indices`", "mask"],
    ),
    "out of range": (lambda: given(maf(), (4,), np.ones(1)), ValueError, ["-4 to 3", "(4,)"]),
    "twice": (lambda: given(maf(), (0, -4), np.ones(2)), ValueError, ["distinct", "(0, -4)"]),
    "nothing": (lambda: given(maf(), (), np.ones(0)), ValueError, ["at least one", "()"]),
    "everything": (lambda: given(maf(), range(4), np.ones(4)), ValueError, ["leave", "4"]),
    "shape": (lambda: given(maf(), (0, 1), np.ones((5, 3))), ValueError, ["(5, 3)", "(*batch, 2)"]),
    "integers": (lambda: given(maf(), (0,), np.ones(1, int)), TypeError, ["`values`", "int"]),
}


@pytest.mark.parametrize("name", sorted(MISUSE))
def test_misuse_names_argument_given_and_expected(name):
    call, error, words = MISUSE[name]
    with pytest.raises(error, match="given: ") as raised:
        call()
    for word in words:
        assert word in str(raised.value)
