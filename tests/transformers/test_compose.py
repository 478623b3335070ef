"""Transformers in a row; what they compute is tested over `tests/table.py`."""

import numpy as np
import pytest

import flowdists as fd
from flowdists.transformers import Compose, ShiftScale
from tests.tolerances import AGREE_F32
from tests.transformers.evaluation import evaluate

CIRCULAR = fd.RationalQuadratic(num_bins=4, bound=np.pi, tails="circular")


def test_forward_applies_the_parts_in_order_and_adds_their_log_slopes():
    first, second = ShiftScale(), fd.RationalQuadratic(num_bins=4)
    both = Compose([first, second])
    draws = np.random.default_rng(0).normal(size=(both.num_params, 50)).astype(np.float32)
    x = np.linspace(-2.0, 2.0, 50, dtype=np.float32)
    middle, first_log_slope = evaluate(first, "forward", x, draws[:2])
    y, second_log_slope = evaluate(second, "forward", middle, draws[2:])
    given, log_slope = evaluate(both, "forward", x, draws)
    np.testing.assert_allclose(given, y, rtol=AGREE_F32)
    np.testing.assert_allclose(log_slope, first_log_slope + second_log_slope, rtol=AGREE_F32)


def test_equal_configurations_are_equal():
    spline = fd.RationalQuadratic
    assert Compose((ShiftScale(), spline())) == Compose((ShiftScale(), spline()))
    assert hash(Compose((ShiftScale(),))) == hash(Compose([ShiftScale()]))


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ((), ValueError, "at least one"),
        ((ShiftScale,), TypeError, "must be a Transformer, got ShiftScale"),
        ((ShiftScale(), CIRCULAR), ValueError, "maps onto"),
    ],
)
def test_parts_that_do_not_fit(parts, error, message):
    with pytest.raises(error, match=message):
        Compose(parts)
