"""Which pixels a ConvCoupling changes, what its conditioner sees, and foreign conditioners."""

import functools

import jax
import numpy as np
import pytest

import flowdists as fd
from flowdists.images import Conv
from tests.draws import drawn, normal

KEY = jax.random.key(0)
SHAPE = (3, 4, 3)
ODD = np.broadcast_to(np.indices(SHAPE[:2]).sum(0)[..., None] % 2 == 1, SHAPE)
SECOND = np.broadcast_to(np.arange(3) >= 1, SHAPE)  # of an odd number, the larger half


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("mask", "changes"), [("checkerboard", ODD), ("channel", SECOND)])
def test_the_jacobian_has_the_structure_of_the_mask(mask, flip, changes):
    """The kept part maps to itself; the changed one, each by itself, is steered by the kept."""
    options = {"mask": mask, "flip": flip, "hidden_channels": 8}
    layer = drawn(lambda key: fd.ConvCoupling(key, SHAPE, **options), 0.3)
    x, changes = normal(0, SHAPE), (changes ^ flip).ravel()

    @jax.jit
    def value_and_jacobian(layer, x):
        function = lambda flat: layer.forward(flat.reshape(SHAPE)).ravel()
        return function(x.ravel()), jax.jacfwd(function)(x.ravel())

    y, jacobian = map(np.asarray, value_and_jacobian(layer, x))
    np.testing.assert_array_equal(y != np.ravel(x), changes)
    np.testing.assert_array_equal(jacobian[~changes], np.eye(x.size)[~changes])
    among = jacobian[np.ix_(changes, changes)]
    np.testing.assert_array_equal(among, np.diag(np.diag(among)))
    assert (jacobian[np.ix_(changes, ~changes)] != 0).any(axis=1).all()


def test_any_callable_pytree_is_a_conditioner():
    x, context = np.asarray(normal(0, (3, 4, 4, 2))), np.ones((3, 5), np.float32)
    given = np.concatenate([x[..., :1], np.ones((3, 4, 4, 5), np.float32)], axis=-1)
    network = drawn(lambda key: Conv(key, 6, 2), 0.3)
    layer = fd.ConvCoupling(KEY, (4, 4, 2), conditioner=network, context_shape=(5,))

    @functools.partial(jax.value_and_grad, has_aux=True)
    def total(layer):
        changed = layer.forward_and_log_det(x, context)[0][..., 1:]
        return changed.sum(), (changed, network(given))

    (_, (changed, out)), gradient = jax.tree.map(np.asarray, jax.jit(total)(layer))
    shift, raw = np.split(out, 2, axis=-1)
    expected = x[..., 1:] * np.exp(2 * np.tanh(raw / 2)) + shift
    np.testing.assert_allclose(changed, expected, rtol=1e-5, atol=1e-6)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradient))


MLP = drawn(lambda key: fd.MLP(key, 1, 2, context_size=5))
CONV = drawn(lambda key: Conv(key, 1, 2))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"conditioner": drawn(lambda key: Conv(key, 1, 3))},
            ValueError,
            r"to \(4, 4, 2\), got \(4, 4, 3\)",
        ),
        ({"conditioner": lambda x: x.sum()}, ValueError, r"to \(4, 4, 2\), got \(\)"),
        ({"conditioner": 3}, TypeError, "must be a callable pytree, got int"),
        # Takes contexts, but of vectors: a batch of contexts is not a row of pixels.
        (
            {"conditioner": MLP, "context_shape": (5,)},
            ValueError,
            "calling it failed",
        ),
        ({"event_shape": (4, 4, 1)}, ValueError, "at least 2 channels"),
        ({"event_shape": (1, 1, 2), "mask": "checkerboard"}, ValueError, "at least 2 pixels"),
        ({"event_shape": (4,)}, ValueError, r"must be \(height, width, channels\)"),
        ({"mask": "half"}, ValueError, "`mask` must be one of"),
        (
            {"conditioner": CONV, "hidden_channels": 8},
            ValueError,
            "`hidden_channels` is an option of the default conditioner, but `conditioner`",
        ),
        ({"conditioner": CONV, "normalize": True}, ValueError, "`normalize` is an option of"),
        ({"normalize": True, "residual": True}, ValueError, "`normalize` must be False"),
    ],
)
def test_refused(options, error, match):
    with pytest.raises(error, match=match):
        fd.ConvCoupling(KEY, **{"event_shape": (4, 4, 2), **options})


def test_two_pixels_are_enough_for_a_checkerboard():
    layer = jax.eval_shape(lambda key: fd.ConvCoupling(key, (1, 2, 2), mask="checkerboard"), KEY)
    assert layer.event_shape == (1, 2, 2)


@pytest.mark.parametrize("residual", [False, True])
def test_the_default_network_is_the_one_asked_for(residual):
    make = lambda key: fd.ConvCoupling(key, (4, 4, 2), residual=residual, hidden_channels=4)
    expected = fd.ResidualConvNet if residual else fd.ConvNet
    assert isinstance(jax.eval_shape(make, KEY).conditioner, expected)
