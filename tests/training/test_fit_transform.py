"""`fit`: rows that are transformed before the flow sees them."""

import functools
import math

import jax
import numpy as np
import optax
import pytest

from flowdists import ActNorm, Flow, StandardNormal
from flowdists.images import dequantize
from flowdists.training import epoch as epoch_module
from flowdists.training import negative_log_likelihood
from tests.tolerances import STANDARD_ERRORS
from tests.training.problems import FROZEN, affine, quick, same


def noisy(key, x):
    return x[:, None] + jax.random.normal(key, (len(x), 2))


def test_a_transform_has_fresh_noise_in_training_and_fixed_noise_in_validation(key):
    seen = []

    def loss(flow, x, context, weights):
        jax.debug.callback(seen.append, x.mean())
        return negative_log_likelihood(flow, x)

    frozen = {"optimizer": optax.sgd(0.0), "ema": None, "max_epochs": 3}
    rows, held_out = np.zeros(20, np.uint8), np.zeros(103, np.uint8)
    for batch_size, chunks in [(10, 4), (64, 1)]:  # 4: three of 34 rows, and 1 left over
        seen.clear()
        options = {"validation": held_out, "batch_size": batch_size, **frozen}
        _, history = quick(key, affine(), rows, transform=noisy, loss=loss, **options)
        jax.effects_barrier()
        assert len(set(history.train)) == 3
        assert len(set(history.validation)) == 1
        # Of each minibatch in each epoch, and of each chunk of the held-out rows.
        assert len(set(map(float, seen))) == 3 * math.ceil(20 / batch_size) + chunks


def test_rows_are_transformed_before_data_init(key):
    flow = Flow(StandardNormal((2,)), ActNorm((2,)))
    initialized, _ = quick(key, flow, np.full(5000, 3, np.uint8), transform=noisy, **FROZEN)
    start = jax.jit(initialized.bijector)(np.zeros(2, np.float32))
    np.testing.assert_allclose(start, 3.0, atol=STANDARD_ERRORS / 4096**0.5)


def test_dequantized_rows(key):
    # Levels 0 to 3, skewed; the best normal is that of the moments, 1/12 of a bin squared wider.
    levels = np.random.default_rng(0).binomial(3, 0.2, (2000, 2)).astype(np.uint8)
    transform = functools.partial(dequantize, num_bits=2)
    options = {"transform": transform, "max_epochs": 40, "validation": 0.0, "ema": 0.99}
    (flow, history), again = (
        quick(jax.random.key(3), affine(), levels << 6, **options) for _ in range(2)
    )
    loc, scale = flow.bijector.loc, np.exp(flow.bijector.log_scale)
    deviation = np.sqrt(levels.var(0) + 1 / 12) / 4
    np.testing.assert_allclose(loc, (levels.mean(0) + 0.5) / 4 - 0.5, atol=0.1 * deviation.min())
    np.testing.assert_allclose(scale, deviation, rtol=0.1)
    assert same(flow, again.flow)
    assert np.array_equal(history.train, again.history.train)


def test_one_compilation_for_a_transform(key):
    optimizer = optax.sgd(0.1)  # each of these is compiled anew too
    transform = functools.partial(dequantize, num_bits=3)
    run = functools.partial(quick, key, affine(), np.ones((50, 2), np.uint8), optimizer=optimizer)
    run(transform=transform, max_epochs=1)
    compiled = epoch_module.run_epoch._cache_size()
    run(transform=transform, max_epochs=4)
    assert epoch_module.run_epoch._cache_size() == compiled
    run(transform=functools.partial(dequantize, num_bits=3), max_epochs=1)
    assert epoch_module.run_epoch._cache_size() == compiled + 1


def unchanged(key, x):
    return x


@pytest.mark.parametrize(
    ("x", "options", "error", "match"),
    [
        (np.ones(10), {"transform": 3}, TypeError, "`transform` must be a function, got int"),
        (
            np.ones((10, 3)),
            {"transform": unchanged},
            ValueError,
            r"`transform` of `x`, float32\[10, 3\], .* shape \(10, 2\), got \(10, 3\)",
        ),
        (
            np.ones((10, 2)),
            {"transform": unchanged, "validation": np.ones((4, 3))},
            ValueError,
            r"`transform` of `validation x`.* shape \(4, 2\), got \(4, 3\)",
        ),
        (
            np.ones((10, 2), np.uint8),
            {"transform": unchanged},
            TypeError,
            "`transform` of `x`.* floating-point dtype, got uint8",
        ),
        (
            np.ones((10, 2)),
            {"transform": lambda key, x: (x, key)},
            TypeError,
            "`transform` of `x`.* must give an array, got tuple",
        ),
        (np.full(10, np.nan), {}, ValueError, "`x` must be finite, .* in 10 of 10 rows"),
        (np.ones(()), {}, ValueError, r"`x` has shape \(\), expected \(n, ...\)"),
        (np.ones((0,), np.uint8), {}, ValueError, "`x` is empty"),
        ("data", {}, TypeError, "`x` must be an array, got str"),
    ],
)
def test_misuse_of_transform(x, options, error, match):
    with pytest.raises(error, match=match):
        quick(jax.random.key(0), affine(), x, **{"transform": noisy, **options})


def test_an_error_in_the_transform_names_its_argument(key):
    with pytest.raises(TypeError, match="must be uint8") as e:
        quick(key, affine(), np.ones((10, 2), np.float32), transform=dequantize)
    assert "fit: raised by `transform` for `x` of float32[10, 2]" in e.value.__notes__


@pytest.mark.parametrize("argument", ["transform", "loss"])
def test_a_function_that_cannot_be_hashed(argument):
    class Shift:
        __hash__ = None

        def __call__(self, key, x):
            return x

    options = {argument: Shift()}
    with pytest.raises(TypeError, match=rf"`{argument}` must be hashable, .* got Shift"):
        quick(jax.random.key(0), affine(), np.ones((10, 2), np.float32), **options)
