"""Means and scales per channel, from data of any size."""

import jax
import numpy as np
import pytest

from flowdists.networks.normalization import ChannelNorm, channel_statistics
from tests.tolerances import AGREE_F32


def statistics(values):
    """Mean and log-deviation of each column, in double precision."""
    values = np.asarray(values, np.float64)
    return values.mean(0), np.log(values.std(0))


@jax.jit
def standardized(x):
    return channel_statistics(x), ChannelNorm(x.shape[-1]).data_init(x)(x)


@pytest.mark.parametrize("unit", [1e-36, 1e-25, 1.0, 1e19, 1e30, 7e37])
def test_no_unit_is_too_large_or_too_small(unit):
    x = unit * (1.1 + np.tanh(np.random.default_rng(0).normal(size=(1000, 2))))
    x = x.astype(np.float32)
    assert np.isfinite(x).all()
    mean, log_deviation = statistics(x)
    given, standard = standardized(x)
    np.testing.assert_allclose(given[0], mean, rtol=10 * AGREE_F32)
    np.testing.assert_allclose(given[1], log_deviation, atol=10 * AGREE_F32, rtol=AGREE_F32)
    np.testing.assert_allclose(np.std(standard, 0), 1.0, rtol=1e-3)


def test_the_same_without_compilation():
    """One operation after the other: a compiler might fuse those that overflow."""
    x = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32) * np.float32(7e37)
    for given, expected in zip(channel_statistics(x), statistics(x), strict=True):
        np.testing.assert_allclose(given, expected, rtol=10 * AGREE_F32)


def test_constant_channels_keep_their_scale():
    x = np.tile(np.array([0.1, 0.0, 3e30], np.float32), (9, 1))
    mean, log_deviation = jax.jit(channel_statistics)(x)
    np.testing.assert_allclose(mean, x[0], rtol=AGREE_F32)
    np.testing.assert_array_equal(log_deviation, 0.0)


def test_only_what_is_present_counts():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(50, 4, 2)).astype(np.float32)
    present = generator.uniform(size=(50, 4, 1)) < 0.5
    run = jax.jit(channel_statistics)
    given = run(np.where(present, x, np.nan), present=present)
    mean, log_deviation = statistics(x[present[..., 0]])
    np.testing.assert_allclose(given[0], mean, atol=AGREE_F32)
    np.testing.assert_allclose(given[1], log_deviation, atol=AGREE_F32)
    np.testing.assert_array_equal(run(x, present=np.zeros_like(present)), 0.0)
    x[0, 0, 0] = np.nan
    assert np.isnan(run(x.copy(), present=np.ones_like(present))[0][0])
