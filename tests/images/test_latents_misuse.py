"""What functions of images and their latents refuse."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

from flowdists.images import (
    attribute_direction,
    decode,
    encode,
    interpolate,
    move,
    reconstruct,
    sample_from_noise,
)
from tests.images.scales import LATENT_SHAPES, SHAPE, conditional, linear

LEVELS = np.arange(192, dtype=np.float32).reshape(3, *SHAPE)
HOLE = np.zeros((3, *SHAPE), np.float32)
HOLE[1, 2:4] = np.nan


@pytest.mark.parametrize(
    "call",
    [
        lambda x: encode(linear(), x),
        lambda x: reconstruct(KEY, linear(), x, 1),
        lambda x: interpolate(linear(), x, X, 3),
        lambda x: interpolate(linear(), X, x, 3),
        lambda x: attribute_direction(linear(), X, x),
        lambda x: move(linear(), x, [FINE, COARSE], 1.0),
    ],
)
def test_wrong_pixels_are_refused_where_they_are_known(call):
    with pytest.raises(
        ValueError, match=r"whole numbers up to 191; keep .* `flowdists\.dequantize`"
    ):
        call(LEVELS)
    with pytest.raises(ValueError, match="must not hold NaN, got 16 NaN of 192"):
        call(HOLE)
    jax.eval_shape(call, LEVELS)  # within a trace no error can be raised


def test_other_pixels_pass_and_nan_is_not_hidden():
    call = lambda x: encode(linear(), x)
    call(LEVELS - 1)
    call((LEVELS > 100).astype(np.float32))
    assert any(np.isnan(part).any() for part in jax.jit(call)(HOLE))


X = np.zeros((3, *SHAPE), np.float32)
FINE, COARSE = (np.zeros(shape, np.float32) for shape in LATENT_SHAPES)
KEY = jax.random.key(0)
UNCONDITIONED = "`flow` must be a Flow, got ConditionalFlow; give it a context first"


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: encode(conditional(), X), TypeError, f"encode: {UNCONDITIONED}"),
        (lambda: decode(conditional(), X), TypeError, f"decode: {UNCONDITIONED}"),
        (lambda: encode(dist.Normal(), X), TypeError, "`flow` must be a Flow, got Normal$"),
        (lambda: encode(linear(), X[0, 0]), ValueError, r"encode: `x` has shape \(8, 1\), exp"),
        (
            lambda: encode(linear(), X.astype("uint8")),
            TypeError,
            "got uint8; keep images of levels",
        ),
        (lambda: decode(linear(), [FINE]), ValueError, "sequence of 2 arrays, one .*, got 1"),
        (lambda: decode(linear(), FINE), ValueError, "decode: `latents` must be .*, got ndarray"),
        (
            lambda: decode(linear(), [FINE, FINE]),
            ValueError,
            r"decode: `latents\[1\]` has shape \(4, 4, 2\), expected \(\*batch, 2, 2, 8\)",
        ),
        (
            lambda: decode(linear(), [np.stack([FINE] * 2), np.stack([COARSE] * 3)]),
            ValueError,
            r"the batch shapes of `latents` must broadcast, got \(2,\) and \(3,\)",
        ),
        (lambda: reconstruct(0, linear(), X, 1), TypeError, "reconstruct: `key` must be one"),
        (
            lambda: reconstruct(KEY, linear(), X, 3),
            ValueError,
            "`num_kept` must be at most the number of scales, 2, got 3",
        ),
        (lambda: reconstruct(KEY, linear(), X, -1), ValueError, "`num_kept` must be an int of at"),
        (
            lambda: reconstruct(KEY, linear(), X, 1, -0.5),
            ValueError,
            "reconstruct: `temperature` must be at least 0, got -0.5",
        ),
        (
            lambda: sample_from_noise(linear(), np.zeros((2, 64)), [1.0] * 3),
            ValueError,
            r"`temperature` must be a number, or 2 of them, .* got shape \(3,\)",
        ),
        (
            lambda: sample_from_noise(linear(), X),
            ValueError,
            r"sample_from_noise: `noise` has shape \(3, 8, 8, 1\), expected \(\*batch, 64\)",
        ),
        (lambda: interpolate(linear(), X, X, 1), ValueError, "`num_steps` must be an int of at"),
        (
            lambda: interpolate(linear(), X, X[:2], 3),
            ValueError,
            r"the shapes of `x_a` and `x_b` must broadcast, got \(3, 8, 8, 1\) and \(2, 8, 8, 1\)",
        ),
        (
            lambda: interpolate(linear(), X, X, 3, scales=[0, 2]),
            ValueError,
            r"`scales` must be from -2 to 1, got \(0, 2\)",
        ),
        (
            lambda: interpolate(linear(), X, X, 3, scales=0),
            TypeError,
            "`scales` must be a sequence of ints, got 0",
        ),
        (
            lambda: attribute_direction(linear(), X, X[:0]),
            ValueError,
            r"`x_without` must hold at least one image, got shape \(0, 8, 8, 1\)",
        ),
        (
            lambda: move(linear(), X, [COARSE, FINE], 1.0),
            ValueError,
            r"move: `direction\[0\]` has shape \(2, 2, 8\)",
        ),
        (
            lambda: move(linear(), X, [FINE, COARSE], np.ones(2)),
            ValueError,
            r"shape of `strength` and .* must broadcast, got \(2,\) and \(3,\)",
        ),
    ],
)
def test_misuse(call, error, match):
    with pytest.raises(error, match=match):
        call()
