"""Fitting from a stream of fresh rows."""

import itertools

import numpy as np
import pytest

from flowdists import fit
from tests.tolerances import STANDARD_ERRORS
from tests.training.problems import affine, conditional, same


def normal_batches(seed=0, size=100):
    draws = np.random.default_rng(seed)
    while True:
        yield 3.0 + 0.5 * draws.normal(size=(size, 2)).astype(np.float32)


def test_finds_the_maximum_and_sees_fresh_rows(key):
    drawn = []

    def batches():
        for batch in normal_batches():
            drawn.append(len(batch))
            yield batch

    flow, history = fit(
        key, affine(), batches(), batches_per_epoch=10, max_epochs=30, patience=None,
        learning_rate=0.2, ema=None, progress=False,
    )  # fmt: skip
    # A tenth of an epoch's batches is held out, and every epoch takes its own ten.
    assert len(drawn) == 1 + 30 * 10
    assert (history.train.shape, history.validation.shape) == ((30,), (30,))
    assert history.stopped == "max_epochs"
    error = 0.5 / np.sqrt(1000)
    np.testing.assert_allclose(flow.bijector.loc, 3.0, atol=STANDARD_ERRORS * error)
    np.testing.assert_allclose(np.exp(flow.bijector.log_scale), 0.5, rtol=0.1)


def test_a_stream_that_ends(key):
    batches = itertools.islice(normal_batches(), 25)
    _, history = fit(key, affine(), batches, batches_per_epoch=10, validation=None, progress=False)
    assert (len(history.train), history.stopped) == (3, "end of stream")


def test_epochs_equal_those_of_rows(key):
    """One epoch of a stream is one epoch of the same rows."""
    batches = list(itertools.islice(normal_batches(), 5))
    held_out = next(normal_batches(seed=1))
    options = {"validation": held_out, "max_epochs": 1, "progress": False}
    streamed, _ = fit(key, affine(), iter(batches), batches_per_epoch=5, **options)
    plain, _ = fit(key, affine(), np.concatenate(batches), **options)
    assert same(streamed, plain)


def test_contexts_and_weights(key):
    def batches():
        for x in normal_batches():
            yield x, np.ones((100, 1)), np.arange(100.0)

    result, history = fit(
        key, conditional(), batches(), batches_per_epoch=2, max_epochs=2, progress=False
    )
    assert np.isfinite(history.train).all() and result.context_shape == (1,)


GOOD = np.ones((10, 2))
MISUSE = {
    "empty": (lambda: iter(()), {}, ValueError, "yields nothing|without batches"),
    "all held out": (lambda: iter([GOOD]), {"validation": 0.5}, ValueError, "validation"),
    "context beside it": (lambda: iter([GOOD]), {"context": GOOD}, ValueError, "context"),
    "weights beside it": (lambda: iter([GOOD]), {"weights": GOOD}, ValueError, "weights"),
    "four entries": (lambda: iter([(GOOD,) * 4]), {}, ValueError, "4 entries"),
    "wrong shape": (lambda: iter([GOOD[:, :1]]), {}, ValueError, r"a batch's x.*\(10, 1\)"),
    "not finite": (lambda: iter([GOOD * np.nan]), {}, ValueError, "finite"),
    "batches": (lambda: iter([GOOD]), {"batches_per_epoch": 0}, ValueError, "batches_per_epoch"),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse(case, key):
    stream, options, kind, message = MISUSE[case]
    with pytest.raises(kind, match=message):
        fit(key, affine(), stream(), progress=False, **options)
