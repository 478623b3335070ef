"""Means and scales per channel, from data of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowdists.networks.normalization import ChannelNorm, channel_statistics
from tests.tolerances import AGREE_F32


def statistics(values):
    """Mean and log-deviation of each column, in double precision."""
    values = np.asarray(values, np.float64)
    return values.mean(0), np.log(values.std(0))


@pytest.mark.parametrize("unit", [1e-36, 1e-25, 1.0, 1e19, 1e30, 7e37])
def test_no_unit_is_too_large_or_too_small(unit, key):
    x = unit * (1.0 + jnp.tanh(jax.random.normal(key, (1000, 2))))
    assert jnp.isfinite(x).all()
    mean, log_deviation = statistics(x)
    for given in (channel_statistics(x), jax.jit(channel_statistics)(x)):
        np.testing.assert_allclose(given[0], mean, rtol=10 * AGREE_F32)
        np.testing.assert_allclose(given[1], log_deviation, atol=10 * AGREE_F32, rtol=AGREE_F32)
    standard = ChannelNorm(2).data_init(x)(x)
    np.testing.assert_allclose(standard.std(0), 1.0, rtol=1e-3)


def test_constant_channels_keep_their_scale():
    x = jnp.stack([jnp.full(9, 0.1), jnp.zeros(9), jnp.full(9, 3e30)], -1)
    mean, log_deviation = channel_statistics(x)
    np.testing.assert_allclose(mean, x[0], rtol=AGREE_F32)
    np.testing.assert_array_equal(log_deviation, 0.0)


def test_only_what_is_present_counts(key):
    x = jax.random.normal(key, (50, 4, 2))
    present = jax.random.bernoulli(key, 0.5, (50, 4, 1))
    given = channel_statistics(jnp.where(present, x, jnp.nan), present=present)
    mean, log_deviation = statistics(np.asarray(x)[np.asarray(present)[..., 0]])
    np.testing.assert_allclose(given[0], mean, atol=AGREE_F32)
    np.testing.assert_allclose(given[1], log_deviation, atol=AGREE_F32)
    nothing = channel_statistics(x, present=jnp.zeros((50, 4, 1), bool))
    np.testing.assert_array_equal(jnp.stack(nothing), 0.0)
    assert jnp.isnan(channel_statistics(x.at[0, 0, 0].set(jnp.nan))[0][0])
