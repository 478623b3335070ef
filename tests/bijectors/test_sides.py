"""What layers and combinations say of their two sides: shapes, domains, contexts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import flowdists as fd
from tests import table

pytestmark = pytest.mark.smoke


def test_shapes_of_a_foreign_layer_that_changes_them():
    simplex = fd.to_support(constraints.simplex)
    assert simplex.forward_shape((5, 2)) == (5, 3)
    assert simplex.inverse_shape((5, 3)) == (5, 2)


def test_a_chain_has_the_sides_of_its_ends():
    images = jax.eval_shape(table.EVERY["layer:multi_scale"].make, jax.random.key(0))
    chain = fd.Chain([fd.Affine(jnp.zeros(16), jnp.ones(16)), images])
    assert chain.event_ndims_in == 1
    assert chain.event_ndims_out == 3
    assert chain.domain == constraints.real_vector
    assert chain.codomain.event_dim == 3


def test_layers_of_a_chain_take_one_context():
    layers = [
        jax.eval_shape(
            lambda key, n=n: fd.AffineCoupling(key, (2,), context_shape=(n,)), jax.random.key(0)
        )
        for n in (1, 2)
    ]
    with pytest.raises(ValueError, match=r"Chain: .* one context shape, got \[\(1,\), \(2,\)\]"):
        fd.Chain(layers)


def test_wrappers_have_the_sides_of_what_they_hold():
    layer = fd.Chain(
        [
            fd.AffineCoupling(jax.random.key(0), (2,), context_shape=(1,), **table.SMALL),
            fd.to_support(constraints.positive),
        ]
    )
    wrapped = fd.Conditioned(layer, np.ones(1))
    assert str(wrapped.domain) == str(layer.domain)
    assert str(wrapped.codomain) == str(layer.codomain) != str(layer.domain)


def test_unbounded_layers_use_numpyro_singletons():
    assert fd.Affine(jnp.array(0.0), jnp.array(1.0)).domain is constraints.real
    assert fd.ActNorm((3,)).codomain is constraints.real_vector
    assert fd.Reverse((3, 2)).codomain is constraints.real_matrix
    assert fd.ActNorm((2, 2, 2)).domain.event_dim == 3
