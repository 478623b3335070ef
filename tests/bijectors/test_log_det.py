"""Log-determinants, inverses and gradients of every bijector, against mathematics in float64."""

import jax
import numpy as np
import pytest

from tests import table
from tests.bijectors.evaluation import BATCH_SHAPE, STEPS, evaluation
from tests.tolerances import FINITE_DIFFERENCE_F64, LOG_DET_F64, ROUND_TRIP_F64


def _params():
    smoke = {*table.OF_CLASS.values(), *table.SMOKE_RECIPES}
    for entry in table.EVERY.values():
        yield pytest.param(entry, id=entry.name, marks=[pytest.mark.smoke] * (entry in smoke))


@pytest.fixture(params=_params())
def entry(request):
    return request.param


@pytest.fixture
def result(entry):
    return evaluation(entry.name)


def jacobian_log_dets(result) -> np.ndarray:
    # The simplex has one redundant coordinate.
    num_inputs = result.singly["jacobian"].shape[-1]
    return np.linalg.slogdet(result.singly["jacobian"][:, :num_inputs])[1]


def test_log_dets_equal_the_jacobians(result):
    """At central and at tail points."""
    np.testing.assert_allclose(
        result.singly["log_det"], jacobian_log_dets(result), atol=LOG_DET_F64, rtol=LOG_DET_F64
    )


def test_log_dets_of_inverses_equal_the_jacobians(result):
    np.testing.assert_allclose(
        result.singly["inverse_log_det"],
        -jacobian_log_dets(result),
        atol=LOG_DET_F64,
        rtol=LOG_DET_F64,
    )


def test_inverses_undo(result):
    np.testing.assert_allclose(
        result.batched["back"], result.x, atol=ROUND_TRIP_F64, rtol=ROUND_TRIP_F64
    )


def test_batches_equal_single_points(result):
    assert result.batched["log_det"].shape == BATCH_SHAPE
    assert result.batched["inverse_log_det"].shape == BATCH_SHAPE
    for quantity, batched in result.batched.items():
        singly = result.singly[quantity]
        np.testing.assert_allclose(
            batched.reshape(singly.shape), singly, atol=LOG_DET_F64, err_msg=quantity
        )


def test_contexts_broadcast_against_samples(result):
    if result.broadcast is None:
        pytest.skip("takes no context")
    for quantity, broadcast in result.broadcast.items():
        np.testing.assert_allclose(
            broadcast, result.batched[quantity], atol=LOG_DET_F64, err_msg=quantity
        )


def skip_exempt(entry, test):
    if test in entry.exempt:
        pytest.skip(entry.exempt[test])


def test_every_parameter_has_an_effect(result, entry):
    skip_exempt(entry, "every parameter has an effect")
    layer, *_ = result.has_effect
    for path, has_effect in jax.tree_util.tree_flatten_with_path(layer)[0]:
        assert has_effect.any(), jax.tree_util.keystr(path)


def test_every_element_of_a_context_has_an_effect(result):
    if result.broadcast is None:
        pytest.skip("takes no context")
    _, _, context = result.has_effect
    assert context[0].all()  # those of the central points, which the loss is of


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_gradients_equal_finite_differences(result, entry, direction):
    """In the input, the parameters and the context, along a random direction."""
    skip_exempt(entry, f"finite differences of the {direction}")
    loss = dict(zip(STEPS, result.loss[direction], strict=True))
    # Extrapolated (Richardson), because a chain of splines curves enough for the plain one to err.
    near, far = ((loss[step] - loss[-step]) / (2 * step) for step in (5e-8, 1e-7))
    expected = (4 * near - far) / 3
    np.testing.assert_allclose(
        result.slope[direction], expected, rtol=FINITE_DIFFERENCE_F64, atol=1e-6
    )


def test_declared_constants_hold(result):
    if not result.layer.is_constant_log_det:
        pytest.skip("promises nothing")
    log_det = result.singly["log_det"]
    np.testing.assert_allclose(log_det, np.full_like(log_det, log_det[0]), rtol=LOG_DET_F64)
