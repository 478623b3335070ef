"""Which pixels a ConvCoupling changes, what its conditioner sees, and foreign conditioners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowdists as fd
from flowdists.networks import Conv
from tests.table import perturb

KEY = jax.random.key(0)
SHAPE = (3, 4, 2)
ODD = np.broadcast_to(np.indices(SHAPE[:2]).sum(0)[..., None] % 2 == 1, SHAPE)
SECOND = np.broadcast_to(np.arange(2) == 1, SHAPE)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("mask", "changes"), [("checkerboard", ODD), ("channel", SECOND)])
def test_the_jacobian_has_the_structure_of_the_mask(mask, flip, changes):
    """The kept part maps to itself; the changed one, each by itself, is steered by the kept."""
    make = lambda: fd.ConvCoupling(KEY, SHAPE, mask=mask, flip=flip, hidden_channels=8)
    layer = perturb(KEY, jax.jit(make)(), 0.3)
    x = jax.random.normal(KEY, SHAPE)
    changes = (changes ^ flip).ravel()
    y = layer.forward(x)
    np.testing.assert_array_equal((y != x).ravel(), changes)
    jacobian = jax.jit(jax.jacfwd(lambda x: layer.forward(x.reshape(SHAPE)).ravel()))(x.ravel())
    np.testing.assert_array_equal(jacobian[~changes], np.eye(x.size)[~changes])
    among = jacobian[np.ix_(changes, changes)]
    np.testing.assert_array_equal(among, np.diag(np.diag(among)))
    assert (jacobian[np.ix_(changes, ~changes)] != 0).any(axis=1).all()


def test_any_callable_pytree_is_a_conditioner():
    x, context = jax.random.normal(KEY, (3, 4, 4, 2)), jnp.ones((3, 5))
    network = Conv(KEY, 6, 2)
    layer = fd.ConvCoupling(KEY, (4, 4, 2), conditioner=network, context_shape=(5,))
    given = jnp.concatenate([x[..., :1], jnp.ones((3, 4, 4, 5))], axis=-1)
    shift, raw = jnp.split(network(given), 2, axis=-1)
    expected = x[..., 1:] * jnp.exp(2 * jnp.tanh(raw / 2)) + shift
    np.testing.assert_allclose(
        layer.forward_and_log_det(x, context)[0][..., 1:], expected, rtol=1e-5, atol=1e-6
    )
    gradient = jax.grad(lambda layer: layer.forward_and_log_det(x, context)[0].sum())(layer)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"conditioner": Conv(KEY, 1, 3)}, ValueError, r"to 2 channels, got .*\(4, 4, 3\)"),
        ({"conditioner": lambda x: x.sum()}, ValueError, r"got images of shape \(\), expected"),
        ({"conditioner": 3}, TypeError, "must be a callable pytree, got int"),
        # Takes contexts, but of vectors: a batch of contexts is not a row of pixels.
        (
            {"conditioner": fd.MLP(KEY, 1, 2, context_size=5), "context_shape": (5,)},
            ValueError,
            "calling it failed",
        ),
        ({"event_shape": (4, 4, 1)}, ValueError, "at least 2 channels"),
        ({"event_shape": (1, 1, 2), "mask": "checkerboard"}, ValueError, "at least 2 pixels"),
        ({"event_shape": (4,)}, ValueError, r"must be \(height, width, channels\)"),
        ({"mask": "half"}, ValueError, "`mask` must be one of"),
        (
            {"conditioner": Conv(KEY, 1, 2), "hidden_channels": 8},
            ValueError,
            "`hidden_channels` is the default conditioner's, and `conditioner` was given",
        ),
        ({"conditioner": Conv(KEY, 1, 2), "normalize": True}, ValueError, "`normalize` is the def"),
        ({"normalize": True, "residual": True}, ValueError, "`normalize` must be False"),
    ],
)
def test_refused(options, error, match):
    with pytest.raises(error, match=match):
        fd.ConvCoupling(KEY, **{"event_shape": (4, 4, 2), **options})
