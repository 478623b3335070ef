"""Log-determinants and inverses of every layer, against automatic differentiation in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to, constraints

from tests import table
from tests.tolerances import FINITE_DIFFERENCE_F64, LOG_DET_F64, ROUND_TRIP_F64

BATCH_SHAPE = (2, 4)


def event_shape(layer) -> tuple[int, ...]:
    """The layer's event shape, or one that fits where any will do."""
    shape = layer.event_shape
    return (3,) * layer.event_ndims_in if shape is None else shape


def inputs(key, layer, batch_shape, scale=1.0):
    """Points of the layer's domain: central ones, or, with a larger scale, tail ones."""
    free = scale * jax.random.normal(key, (*batch_shape, *event_shape(layer)))
    return biject_to(layer.domain)(free) if layer.domain != constraints.real else free


def random_context(key, layer, batch_shape):
    if layer.context_shape is None:
        return None
    return jax.random.normal(key, (*batch_shape, *layer.context_shape))


@pytest.fixture(params=sorted(table.EVERY), scope="module")
def name(request):
    """Of one layer after the other, so that its tests share compiled programs."""
    return request.param


@pytest.fixture
def layer(name, x64):
    return table.build(name)


@jax.jit
def both_ways(layer, x, context):
    """Outputs and log-determinants there and back."""
    y, log_det = layer.forward_and_log_det(x, context)
    return y, log_det, *layer.inverse_and_log_det(y, context)


@jax.jit
def jacobian_log_dets(layer, x, context):
    """Log-determinants by ``slogdet`` of the Jacobian, for two batch dimensions."""

    def one(x, context):
        function = lambda v: layer.forward_and_log_det(v, context)[0].reshape(-1)
        matrix = jax.jacfwd(function)(x).reshape(-1, math.prod(x.shape))
        # The simplex has one redundant coordinate.
        return jnp.linalg.slogdet(matrix[: math.prod(x.shape)])[1]

    return jax.vmap(jax.vmap(one))(x, context)


def test_log_dets_equal_the_jacobians(layer, key):
    """And inverses undo, at central and at tail points."""
    tails = inputs(key, layer, BATCH_SHAPE[1:], scale=10.0)
    x = jnp.stack([inputs(key, layer, BATCH_SHAPE[1:]), tails])
    if layer.event_shape is None:
        x = jnp.clip(x, -10, 10)  # beyond, NumPyro's sigmoid has lost the digits asked for
    context = random_context(key, layer, BATCH_SHAPE)
    _, log_det, back, inverse_log_det = both_ways(layer, x, context)
    expected = jacobian_log_dets(layer, x, context)
    np.testing.assert_allclose(log_det, expected, atol=LOG_DET_F64, rtol=LOG_DET_F64)
    np.testing.assert_allclose(inverse_log_det, -expected, atol=LOG_DET_F64, rtol=LOG_DET_F64)
    np.testing.assert_allclose(back, x, atol=ROUND_TRIP_F64, rtol=ROUND_TRIP_F64)


def test_batches_equal_loops(layer, key):
    x = inputs(key, layer, BATCH_SHAPE)
    context = random_context(key, layer, BATCH_SHAPE)
    results = both_ways(layer, x, context)
    assert results[1].shape == results[3].shape == BATCH_SHAPE
    for index in np.ndindex(BATCH_SHAPE):
        one = both_ways(layer, x[index], None if context is None else context[index])
        assert one[1].shape == one[3].shape == ()
        for batched, single in zip(results, one, strict=True):
            np.testing.assert_allclose(batched[index], single, atol=LOG_DET_F64)


def test_context_broadcasts_against_samples(layer, key):
    if layer.context_shape is None:
        pytest.skip("takes no context")
    x = inputs(key, layer, BATCH_SHAPE)
    context = random_context(key, layer, BATCH_SHAPE[1:])
    y, log_det, *_ = both_ways(layer, x, context)
    full = jnp.broadcast_to(context, (*BATCH_SHAPE, *layer.context_shape))
    expected_y, expected_log_det, *_ = both_ways(layer, x, full)
    np.testing.assert_allclose(y, expected_y, atol=ROUND_TRIP_F64)
    np.testing.assert_allclose(log_det, expected_log_det, atol=LOG_DET_F64)
    one_sample_many_contexts = jax.eval_shape(layer.inverse_and_log_det, y[0, 0], context)
    assert one_sample_many_contexts[0].shape == (*BATCH_SHAPE[1:], *event_shape(layer))


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_gradients_equal_finite_differences(layer, key, direction):
    """In the input, the parameters and the context, along random directions."""
    x = inputs(key, layer, BATCH_SHAPE)
    context = random_context(key, layer, BATCH_SHAPE)
    value = x if direction == "forward" else both_ways(layer, x, context)[0]

    def loss(layer, value, context):
        out, log_det = getattr(layer, f"{direction}_and_log_det")(value, context)
        return jnp.sum(jnp.sin(out)) + log_det.sum()

    loss_and_gradient = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1) if context is None else (0, 1, 2))
    )

    primals = (layer, value, context)
    tangents = table.perturb(key, jax.tree.map(jnp.zeros_like, primals), 1.0)
    if layer.codomain == constraints.simplex and direction == "inverse":
        pytest.skip("a step would leave the simplex")
    _, gradient = loss_and_gradient(*primals)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(tangents), strict=True)
    slope = sum(jnp.vdot(g, t) for g, t in pairs)

    def difference(step):
        ahead, behind = (
            loss_and_gradient(
                *jax.tree.map(lambda p, t, s=sign * step: p + s * t, primals, tangents)
            )[0]
            for sign in (1, -1)
        )
        return (ahead - behind) / (2 * step)

    # Extrapolated (Richardson), because a chain of splines curves enough for the plain one to err.
    expected = (4 * difference(5e-8) - difference(1e-7)) / 3
    np.testing.assert_allclose(slope, expected, rtol=FINITE_DIFFERENCE_F64, atol=1e-6)
