"""MADE: who sees whom, at any order, width and depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowdists.networks.made import MADE
from tests.draws import drawn


def draws(*shape):
    return np.random.default_rng(0).normal(size=shape)


def make(event_size=6, num_params=2, **options):
    # Smooth: a rectifier that is off where we look would hide a dependency.
    options = {"hidden_sizes": (8, 8), "activation": "silu", **options}
    return drawn(lambda key: MADE(key, event_size, num_params, **options), 0.5)


@jax.jit
def run(made, x, context=None):
    return made(x, context)


def dependencies(made, size, context=None):
    """Which inputs (columns) the parameters of each element (rows) depend on, in its order."""
    jacobian = jax.jit(jax.jacobian(lambda x, made: made(x, context)))(draws(size), made)
    seen = np.abs(jacobian).max(axis=0) > 0
    return seen[np.ix_(made.order, made.order)]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("context_size", [0, 2])
@pytest.mark.parametrize("order", ["ascending", "descending", (3, 0, 5, 1, 4, 2)])
def test_each_element_sees_all_earlier_ones_and_no_others(x64, order, context_size, residual):
    made = make(hidden_sizes=(7, 7), order=order, context_size=context_size, residual=residual)
    context = np.ones(context_size) if context_size else None
    np.testing.assert_array_equal(dependencies(made, 6, context), np.tri(6, k=-1, dtype=bool))


def test_just_wide_enough_loses_nothing(x64):
    made = make(hidden_sizes=(5, 9, 5))
    np.testing.assert_array_equal(dependencies(made, 6), np.tri(6, k=-1, dtype=bool))


@pytest.mark.parametrize(
    ("hidden_sizes", "context_size", "num_groups"),
    [((1,), 0, 2), ((2,), 0, 3), ((8, 3), 0, 4), ((3, 8, 4), 0, 4), ((3, 8), 2, 3), ((1,), 2, 1)],
)
def test_narrow_layers_group_neighbours_evenly(x64, hidden_sizes, context_size, num_groups):
    """The fewest lost pairs: elements of one group, and groups as equal as can be."""
    size = 7
    made = make(size, hidden_sizes=hidden_sizes, context_size=context_size)
    seen = dependencies(made, size, np.ones(context_size) if context_size else None)
    group_sizes = [len(group) for group in np.array_split(np.arange(size), num_groups)]
    group = np.repeat(np.arange(num_groups), group_sizes)
    np.testing.assert_array_equal(seen, group[:, None] > group[None, :])


@pytest.mark.parametrize("residual", [False, True])
def test_all_parameters_depend_on_the_context_nonlinearly(x64, residual):
    made = make(context_size=1, residual=residual)
    slopes = jax.jit(jax.vmap(jax.jacobian(lambda c: made(draws(6), c))))
    here, there = np.asarray(slopes(np.array([[0.0], [1.0]])))
    assert (np.abs(here).max(axis=(0, 2)) > 0).all()
    assert (np.abs(here - there).max(axis=(0, 2)) > 1e-3).all()


def test_the_first_element_has_a_bias_alone_without_context():
    params = np.asarray(run(make(3, order=(1, 0, 2)), draws(4, 3)))[:, :, 1]
    np.testing.assert_array_equal(params, np.broadcast_to(params[:, :1], params.shape))


@pytest.mark.parametrize("context_size", [0, 2])
def test_one_element_depends_on_the_context_alone(context_size):
    made = make(1, num_params=3, context_size=context_size)
    context = draws(4, context_size) if context_size else None
    params = run(made, np.arange(4.0)[:, None], context)
    assert params.shape == (3, 4, 1)
    np.testing.assert_array_equal(params, run(made, np.zeros((4, 1)), context))


def test_starts_at_zero(key):
    x, context = np.ones((5, 4), np.float32), np.ones((5, 2), np.float32)
    new = jax.jit(lambda key: MADE(key, 4, 3, hidden_sizes=(8, 8), context_size=2)(x, context))
    np.testing.assert_array_equal(new(key), np.zeros((3, 5, 4)))


def test_batches_of_x_and_context_broadcast(x64):
    made = make(3, context_size=2, residual=True)

    @jax.jit
    def both(made, x, context):
        rows = jax.vmap(jax.vmap(made, out_axes=1), in_axes=(0, None), out_axes=1)(x, context)
        return (made(x, context), rows), (made(x, context[:1]), made(x, context[0]))

    for given, expected in both(made, draws(4, 5, 3), draws(5, 2)):
        np.testing.assert_allclose(given, expected, atol=1e-12)


def test_leaves_are_floats_and_configuration_is_hashable():
    made, same = (make(4, 3, context_size=2, residual=True) for _ in range(2))
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(made))
    assert hash(jax.tree.structure(made)) == hash(jax.tree.structure(same))
    assert jax.tree.structure(made) == jax.tree.structure(same)


def test_gates_are_those_of_residual_blocks_with_a_context():
    assert not make(context_size=2).gates
    assert not make(residual=True).gates
    assert len(make(context_size=2, residual=True).gates) == 2


@pytest.mark.parametrize("order", [(0, 1, 1), (1, 2, 3), (0, 1), "backwards"])
def test_bad_orders_are_named(key, order):
    with pytest.raises(ValueError, match=r"MADE: `order` must be .* got"):
        MADE(key, 3, 2, order=order)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"event_size": 0}, "`event_size`"),
        ({"num_params": 0}, "`num_params`"),
        ({"hidden_sizes": ()}, "`hidden_sizes`"),
        ({"hidden_sizes": (8, 0)}, "`hidden_sizes`"),
        ({"hidden_sizes": (8, 9), "residual": True}, "`hidden_sizes` must all be equal"),
        ({"activation": "no such function"}, "`activation`"),
    ],
)
def test_bad_sizes_are_named(key, options, message):
    with pytest.raises(ValueError, match=message):
        MADE(key, **{"event_size": 3, "num_params": 2, **options})


def test_the_second_layer_of_a_block_starts_small():
    build = jax.jit(lambda key: MADE(key, 8, 2, hidden_sizes=(64, 64), residual=True))
    first, second = build(jax.random.key(0)).hidden_layers[:2]
    assert np.std(second.weight) < 0.2 * np.std(first.weight)
