"""Errors name the argument, what was given and what was expected."""

import jax
import jax.numpy as jnp
import pytest

import flowdists as fd
from tests import table

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda b: b.forward(jnp.ones(4)), ValueError, ["`x`", "(4,)", "(*batch, 5)"]),
        (lambda b: b.inverse(jnp.array(1.0)), ValueError, ["`y`", "()", "(*batch, 5)"]),
        (lambda b: b.forward(jnp.ones(5, int)), TypeError, ["`x`", "int32", "floating"]),
        (lambda b: b.forward("abc"), TypeError, ["`x`", "str"]),
        (
            lambda b: b.forward_and_log_det(jnp.ones(5), jnp.ones(2)),
            ValueError,
            ["`context`", "(2,)", "None"],
        ),
        (lambda b: b.forward_shape((3, 4)), ValueError, ["`shape`", "(3, 4)", "(*batch, 5)"]),
    ],
)
def test_misuse_names_argument_given_and_expected(call, error, words):
    with pytest.raises(error) as raised:
        call(table.build("layer:affine_coupling"))
    for word in words:
        assert word in str(raised.value)


def test_a_stack_takes_a_function_that_makes_layers():
    with pytest.raises(TypeError, match=r"`make_layer` must be .* got Reverse"):
        fd.Repeat(jax.random.key(0), fd.Reverse((3,)), 2)


def test_linear_layers_start_at_what_is_known():
    with pytest.raises(ValueError, match="`start` must be one of"):
        fd.LULinear(jax.random.key(0), (3,), start="orthogonal")


def test_only_transforms_are_foreign_layers():
    with pytest.raises(TypeError, match=r"`transform` must be .* got str"):
        fd.Foreign("exp")
