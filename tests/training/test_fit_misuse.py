"""`fit`: what it refuses."""

import jax
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from flowdists import Flow, StandardNormal
from flowdists.training import fit
from tests.training.problems import affine, conditional, quick

GOOD = np.ones((10, 2), np.float32)
HOLES = GOOD.copy()
HOLES[[4, 7], 1] = np.nan


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"x": HOLES}, ValueError, "`x` must be finite, .* in 2 of 10 rows, first in row 4"),
        ({"x": GOOD[:0]}, ValueError, "`x` is empty"),
        ({"x": GOOD[:, :1]}, ValueError, r"`x` has shape \(10, 1\), expected \(n, 2\)"),
        ({"x": GOOD[0, 0]}, ValueError, r"`x` has shape \(\), expected \(n, 2\)"),
        ({"x": GOOD.astype(int)}, TypeError, "`x` must have a floating-point dtype"),
        ({"x": "data"}, TypeError, "`x` must be a floating-point array, got str"),
        ({"context": GOOD}, ValueError, r"`context` was given \(shape \(10, 2\)\)"),
        ({"weights": -np.ones(10)}, ValueError, "`weights` must not be negative, but 10 are"),
        ({"weights": np.ones(9)}, ValueError, r"`weights` has shape \(9,\), expected \(10,\)"),
        ({"weights": np.full(10, np.nan)}, ValueError, "`weights` must be finite"),
        (
            {"weights": np.zeros(10), "validation": None},
            ValueError,
            "`weights` must not all be zero",
        ),
        ({"weights": np.ones(10, int)}, TypeError, "`weights` must have a floating-point dtype"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an int of at least 1, got 0"),
        ({"max_epochs": 0}, ValueError, "`max_epochs` must be an int of at least 1, got 0"),
        ({"max_epochs": 2.0}, ValueError, "`max_epochs` must be an int of at least 1, got 2.0"),
        ({"patience": 0}, ValueError, "`patience` must be an int of at least 1, got 0"),
        ({"validation": 1.0}, ValueError, r"`validation` must be a fraction in \[0, 1\)"),
        ({"validation": -0.1}, ValueError, r"`validation` must be a fraction in \[0, 1\)"),
        ({"validation": True}, ValueError, r"`validation` must be a fraction in \[0, 1\)"),
        ({"validation": "half"}, ValueError, "`validation` must be a fraction"),
        ({"validation": 0.99}, ValueError, "`validation` of 0.99 leaves no row to train on"),
        ({"validation": HOLES}, ValueError, "`validation x` must be finite"),
        ({"validation": ()}, ValueError, "`validation` as a tuple must be .* got 0 entries"),
        ({"validation": (GOOD, GOOD)}, ValueError, "`validation context` was given"),
        ({"learning_rate": -1.0}, ValueError, "`learning_rate` must be positive and finite"),
        (
            {"learning_rate": 1e-3, "optimizer": optax.sgd(1.0)},
            ValueError,
            "`optimizer` was given: set it there",
        ),
        ({"optimizer": "adam"}, TypeError, "`optimizer` must be an optax optimizer.* got str"),
        ({"loss": "nll"}, TypeError, "`loss` must be a function, got str"),
        ({"clip_norm": 0.0}, ValueError, "`clip_norm` must be positive and finite"),
        ({"ema": 1.0}, ValueError, "`ema` must be a decay between 0 and 1, or None, got 1.0"),
        ({"key": 0}, TypeError, "`key` must be one PRNG key"),
        (
            {"flow": lambda: StandardNormal((2,))},
            TypeError,
            "`flow` must be a Flow or ConditionalFlow",
        ),
        (
            {"flow": lambda: affine().expand((3,))},
            ValueError,
            r"no batch axes, got batch shape \(3,\)",
        ),
        (
            {"flow": lambda: conditional().condition(np.ones(1, np.float32))},
            ValueError,
            "`flow` must not be conditioned yet",
        ),
    ],
)
def test_misuse(options, error, match):
    arguments = {"key": jax.random.key(0), "flow": affine, "x": GOOD, **options}
    key, make_flow, x = (arguments.pop(name) for name in ("key", "flow", "x"))
    with pytest.raises(error, match=match):
        fit(key, make_flow(), x, progress=False, **arguments)


@pytest.mark.parametrize(
    ("context", "error", "match"),
    [
        (None, ValueError, r"`context` is missing, expected an array of shape \(10, 1\)"),
        (np.ones((9, 1)), ValueError, r"`context` has shape \(9, 1\), expected \(10, 1\)"),
        (np.ones((10, 1), int), TypeError, "`context` must have a floating-point dtype"),
        (np.full((10, 1), np.inf), ValueError, "`context` must be finite, .* in 10 of 10 rows"),
    ],
)
def test_misuse_of_context(context, error, match):
    with pytest.raises(error, match=match):
        fit(jax.random.key(0), conditional(), GOOD, context=context, progress=False)


def test_a_flow_with_nothing_to_train(key):
    flow = Flow(StandardNormal((2,)), dist.transforms.ExpTransform())
    with pytest.raises(ValueError, match="`flow` has no parameters to train"):
        quick(key, flow, GOOD, validation=None)
