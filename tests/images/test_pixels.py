"""Levels to values and back, exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flowdists as fd
from flowdists.images import bits_per_dim, dequantize, from_uint8, reduce_bits, to_uint8
from flowdists.images.layers.pixel_logit import PixelLogit
from flowdists.images.pixels import place
from tests.tolerances import AGREE_F32, P_VALUE, ROUND_TRIP_F32

LEVELS = np.arange(256, dtype=np.uint8)
every_depth = pytest.mark.parametrize("num_bits", range(1, 9))


@pytest.mark.parametrize("num_bits", [1, 3, 5, 8])
def test_every_level_survives_the_noise(num_bits):
    images = np.tile(LEVELS, (2000, 1))

    @jax.jit
    def run(key, images):
        x = dequantize(key, images, num_bits=num_bits)
        return x, reduce_bits(images, num_bits), to_uint8(x, num_bits)

    x, reduced, restored = map(np.asarray, run(jax.random.key(num_bits), images))
    assert (x.dtype, x.shape) == (np.float32, images.shape)
    levels = LEVELS // 2 ** (8 - num_bits)
    # In double precision, in which bins and values are exact: strictly inside.
    position = (np.asarray(x, np.float64) + 0.5) * 2**num_bits - levels
    assert position.min() > 0 and position.max() < 1
    np.testing.assert_array_equal(reduced[0], levels)
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, np.tile(levels << (8 - num_bits), (2000, 1)))
    assert stats.kstest(position[::37].ravel(), "uniform").pvalue > P_VALUE


@functools.cache
def placed(num_bits):
    """Every level at a part of its bin, and the derivative of one of them in that part."""
    levels = np.arange(2**num_bits, dtype=np.uint8)

    @jax.jit
    def run(u):
        slope = jax.grad(lambda u: place(levels[:1], u[None], num_bits).sum())(u)
        return place(levels, jnp.full(levels.shape, u), num_bits), slope

    return run


@every_depth
@pytest.mark.parametrize("u", [0.0, 1e-30, 1e-7, 0.5, 1 - 6e-8, 1.0])
def test_no_noise_leads_out_of_a_bin(num_bits, u):
    x, slope = placed(num_bits)(np.float32(u))
    position = (np.asarray(x, np.float64) + 0.5) * 2**num_bits - np.arange(2**num_bits)
    assert position.min() > 0 and position.max() < 1
    np.testing.assert_allclose(position, u, atol=2.0 ** (num_bits - 23))
    assert slope == 2.0**-num_bits


@every_depth
def test_bin_middles_come_back(num_bits):
    x = from_uint8(LEVELS, num_bits)
    assert x.dtype == jnp.result_type(float)
    width = 2.0**-num_bits
    np.testing.assert_array_equal(x, (LEVELS >> (8 - num_bits)) * width + width / 2 - 0.5)
    np.testing.assert_array_equal(to_uint8(x, num_bits), LEVELS >> (8 - num_bits) << (8 - num_bits))


def test_to_uint8_at_edges_and_beyond():
    x = jnp.array([-jnp.inf, -7.0, -0.5, -1e-30, 0.0, 0.5, 1e30, jnp.inf], jnp.float32)
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 127, 128, 255, 255, 255])
    np.testing.assert_array_equal(to_uint8(x, 1), [0, 0, 0, 0, 128, 128, 128, 128])
    np.testing.assert_array_equal(to_uint8(x.astype(jnp.bfloat16)[4:]), [128, 255, 255, 255])


def test_bits_per_dim_of_known_densities():
    shape = (2, 3, 1)
    # All mass in one of 32 levels, spread evenly over its bin: zero bits.
    np.testing.assert_allclose(bits_per_dim(6 * np.log(32.0), shape, num_bits=5), 0, atol=1e-5)
    np.testing.assert_allclose(bits_per_dim(jnp.zeros(4), shape), np.full(4, 8.0))
    # Log-mass of one of 4 equal images of 6 binary pixels.
    np.testing.assert_allclose(bits_per_dim(-np.log(4.0), shape, num_bits=0), 2 / 6, rtol=AGREE_F32)
    assert bits_per_dim(jnp.zeros(2), ()).shape == (2,)


def test_keys():
    images = np.zeros((50,), np.uint8)
    run = jax.jit(dequantize)
    one, same, other = (np.asarray(run(jax.random.key(i), images)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not (one == other).any()


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: dequantize(KEY, np.array([0.0, 255.0], np.float32)),
            TypeError,
            r"`images` must be uint8, got float32 with values up to 255; convert .*astype\('uint8'",
        ),
        (lambda: dequantize(KEY, np.arange(9)), TypeError, r"got int32 with values up to 8; conve"),
        (
            lambda: dequantize(KEY, np.array([0.0, 0.3])),
            TypeError,
            "got float32 with values from 0 to 0.3; expected are levels 0 to 255",
        ),
        (
            lambda: jax.jit(dequantize)(KEY, jnp.ones(3)),
            TypeError,
            "must be uint8, got float32; expected are levels 0 to 255",
        ),
        (lambda: reduce_bits(jnp.zeros(3, bool), 3), TypeError, "must be uint8, got bool; expec"),
        (lambda: reduce_bits(jnp.zeros(0), 3), TypeError, "must be uint8, got float32; expected"),
        (lambda: reduce_bits("image", 3), TypeError, "`images` must be a uint8 array, got str"),
        (
            lambda: reduce_bits(LEVELS, 0),
            ValueError,
            "`num_bits` must be an int from 1 to 8, got 0",
        ),
        (lambda: reduce_bits(LEVELS, 5.0), ValueError, "`num_bits` must be an int from 1 to 8"),
        (lambda: dequantize(KEY, LEVELS, num_bits=9), ValueError, "dequantize: `num_bits`.* got 9"),
        (lambda: from_uint8(LEVELS / 1.0), TypeError, "from_uint8: `images` must be uint8"),
        (lambda: dequantize(0, LEVELS), TypeError, "dequantize: `key` must be one PRNG key"),
        (
            lambda: to_uint8(LEVELS),
            TypeError,
            "dtype, got uint8; keep images of levels 0 to 255 as",
        ),
        (lambda: to_uint8(jnp.zeros(3), True), ValueError, "to_uint8: `num_bits`.* got True"),
        (lambda: to_uint8(jnp.array([jnp.nan, 0])), ValueError, "not hold NaN, got 1 NaN of 2"),
        (lambda: bits_per_dim(jnp.zeros(3), (2,), -1), ValueError, "an int from 0 to 8, got -1"),
        (lambda: bits_per_dim(jnp.zeros(3), (0,)), ValueError, "`event_shape` must be a tuple"),
        (lambda: bits_per_dim(3, (2,)), TypeError, "`log_prob` must have a floating-point dtype"),
    ],
)
def test_misuse(call, error, match):
    with pytest.raises(error, match=match):
        call()


class TestPixelLogit:
    def test_is_the_logit_of_the_shrunken_pixel(self, x64):
        layer = PixelLogit((3,), alpha=0.05)
        x = jnp.array([-0.5, 0.1, 0.5])
        z, log_det = layer.inverse_and_log_det(x)
        p = 0.05 + 0.9 * (np.asarray(x) + 0.5)
        np.testing.assert_allclose(z, stats.logistic.ppf(p), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(log_det, np.log(0.9 / (p * (1 - p))).sum(), rtol=1e-12)
        np.testing.assert_allclose(z, -layer.inverse(-x), rtol=1e-12, atol=1e-12)

    def test_other_scales(self):
        ours, other = PixelLogit((2,)), PixelLogit((2,), low=0.0, high=255.0)
        z = jnp.array([-1.0, 2.0])
        np.testing.assert_allclose(other(z), 255 * (ours(z) + 0.5), rtol=AGREE_F32)

    @pytest.mark.parametrize("alpha", [0.0, 0.05, 0.3])
    def test_a_flow_integrates_to_one_on_its_support_and_is_zero_beyond(self, alpha, x64):
        layer = PixelLogit((1,), alpha=alpha)
        flow = fd.Flow(fd.StandardNormal((1,)), layer, validate_args=False)
        high = 0.5 / (1 - 2 * alpha)
        low = -high
        interval = flow.support.base_constraint
        np.testing.assert_allclose([interval.lower_bound, interval.upper_bound], [low, high])
        edges = np.linspace(low, high, 20_001)
        middles = jnp.asarray(0.5 * (edges[1:] + edges[:-1]))[:, None]
        mass = np.exp(flow.log_prob(middles)).sum() * (edges[1] - edges[0])
        np.testing.assert_allclose(mass, 1.0, atol=1e-6)
        beyond = jnp.array([[low - 1e-3], [high + 1e-3], [-jnp.inf], [jnp.inf]])
        assert (np.asarray(flow.log_prob(beyond)) == -np.inf).all()
        gradient = jax.grad(lambda x: flow.log_prob(x).sum())(beyond)[:2]
        assert np.isfinite(gradient).all()
        assert np.isnan(flow.log_prob(np.array([np.nan])))

    def test_stays_in_its_support_far_out(self):
        layer = PixelLogit((1,))
        flow = fd.Flow(fd.StandardNormal((1,)), layer)
        z = np.linspace(-1000, 1000, 4001, dtype=np.float32)[:, None]

        @jax.jit
        def run(z):
            x, log_det = layer.forward_and_log_det(z)
            return log_det, flow.support(x), flow.log_prob(x), layer.inverse(x)

        log_det, supported, log_prob, back = map(np.asarray, run(z))
        assert supported.all() and np.isfinite(log_det).all() and np.isfinite(log_prob).all()
        inner = np.abs(z[:, 0]) <= 5
        np.testing.assert_allclose(back[inner], z[inner], atol=ROUND_TRIP_F32)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"alpha": 0.5}, r"`alpha` must be in \[0, 0.5\), got 0.5"),
            ({"alpha": -0.1}, "`alpha` must be"),
            ({"low": 1.0, "high": 1.0}, "`low` must be below `high`"),
            ({"high": float("inf")}, "both finite"),
        ],
    )
    def test_misuse(self, options, match):
        with pytest.raises(ValueError, match=match):
            PixelLogit((2,), **options)
