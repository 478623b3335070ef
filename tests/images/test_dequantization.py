"""Bounds of log-masses, against masses known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import special, stats

import flowdists as fd
from flowdists.images import (
    VariationalDequantizer,
    bits_per_dim,
    dequantize,
    image_log_prob,
)
from flowdists.images.pixels import bins
from tests import table
from tests.draws import drawn
from tests.images.known import (
    BITS,
    IMAGES,
    LEVELS,
    LOGITS,
    SHAPE,
    exact_normal_log_mass,
    histogram_flow,
    normal_flow,
)
from tests.tolerances import (
    AGREE_F32,
    INTEGRAL,
    LOG_DET_F64,
    P_VALUE,
    ROUND_TRIP_F32,
    ROUND_TRIP_F64,
    STANDARD_ERRORS,
)


@functools.partial(jax.jit, static_argnames=("num_bits", "num_samples"))
def log_mass(key, flow, images, dequantizer=None, num_bits=BITS, num_samples=1):
    options = {"num_bits": num_bits, "num_samples": num_samples, "dequantizer": dequantizer}
    return image_log_prob(key, flow, images, **options)


COUNT = 4000


def log_weights(flow, dequantizer=None):
    """Independent single-sample bounds of every image, ``(COUNT, 16)``."""
    copies = np.broadcast_to(IMAGES, (COUNT, *IMAGES.shape))
    return np.asarray(log_mass(jax.random.key(1), flow, copies, dequantizer), np.float64)


def assert_means(samples, expected):
    errors = STANDARD_ERRORS * samples.std(0) / len(samples) ** 0.5
    assert (np.abs(samples.mean(0) - expected) <= errors + AGREE_F32).all()


def make_noise(key):
    flow = fd.RealNVP(key, SHAPE, context_shape=SHAPE, num_layers=2, hidden_sizes=(16,))
    return VariationalDequantizer(flow)


@functools.cache
def new_noise():
    return jax.jit(make_noise)(jax.random.key(0))


@pytest.mark.parametrize("num_samples", [1, 3])
def test_exact_where_the_density_is_constant_in_each_bin(num_samples):
    @jax.jit
    def run(flow):
        options = {"num_bits": BITS, "num_samples": num_samples}
        log_mass = image_log_prob(jax.random.key(0), flow, IMAGES, **options)
        x = dequantize(jax.random.key(1), IMAGES, num_bits=BITS)
        of_density = bits_per_dim(flow.log_prob(x), SHAPE, BITS)
        return log_mass, bits_per_dim(log_mass, SHAPE, num_bits=0), of_density

    log_mass, bits, of_density = map(np.asarray, run(histogram_flow()))
    expected = np.log(special.softmax(LOGITS))[LEVELS].sum((1, 2, 3))
    assert log_mass.shape == (16,)
    np.testing.assert_allclose(bits, -expected / (2 * np.log(2)), atol=1e-5)
    np.testing.assert_allclose(np.exp(log_mass).sum(), 1.0, atol=1e-5)
    # As with the density of dequantized data.
    np.testing.assert_allclose(of_density, bits, atol=1e-5)


@pytest.mark.parametrize("num_bits", [1, 5, 8])
def test_a_uniform_density_costs_all_bits(num_bits):
    shape = (3, 4, 1)
    flow = fd.Flow(fd.StandardUniform(shape, -0.5, 0.5), fd.Reverse(shape))
    images = np.random.default_rng(0).integers(256, size=(2, 5, *shape)).astype(np.uint8)
    bits = -np.asarray(log_mass(jax.random.key(1), flow, images, num_bits=num_bits)) / np.log(2)
    assert bits.shape == (2, 5)
    np.testing.assert_allclose(bits / 12, num_bits, atol=1e-5)


@pytest.mark.parametrize("learned", [False, True])
def test_weights_are_unbiased_and_their_logarithms_a_lower_bound(learned):
    dequantizer = table.perturb(jax.random.key(1), new_noise(), 0.05) if learned else None
    exact = exact_normal_log_mass(LEVELS)
    weights = log_weights(normal_flow(), dequantizer)
    assert_means(np.exp(weights - exact), 1.0)
    assert (weights.mean(0) < exact).all()


def test_the_masses_of_a_spline_add_up():
    """On [-0.5, 0.5]: also exact masses telescope, between values of the CDF at bin edges."""
    spline = drawn(lambda key: fd.RationalQuadraticSpline(SHAPE, num_bins=5, bound=0.5), 0.7)
    flow = fd.Flow(fd.StandardUniform(SHAPE, -0.5, 0.5), spline)
    edges = np.tile(np.linspace(-0.5, 0.5, 5, dtype=np.float32).reshape(-1, 1, 1, 1), SHAPE)
    cdf = jax.jit(lambda spline, x: spline.inverse(x))(spline, edges)
    masses = np.diff(np.asarray(cdf).reshape(5, 2), axis=0)
    exact = np.log(masses[LEVELS.reshape(-1, 2), [0, 1]]).sum(-1)
    weights = np.exp(log_weights(flow))
    assert_means(weights / np.exp(exact), 1.0)
    assert_means(weights.sum(1), 1.0)


def test_more_samples_converge_to_the_mass():
    flow, exact = normal_flow(), exact_normal_log_mass(LEVELS)
    bound = log_mass(jax.random.key(0), flow, IMAGES, num_samples=COUNT)
    errors = np.exp(log_weights(flow) - exact).std(0) / COUNT**0.5
    assert (np.abs(np.expm1(bound - exact)) < STANDARD_ERRORS * errors).all()


def test_the_density_of_noise_integrates_to_one(x64):
    make = functools.partial(
        fd.MAF, event_shape=(1,), context_shape=(1,), num_layers=2, hidden_sizes=(8,)
    )
    images, points = np.array([[0], [31], [200]], np.uint8), 20_000
    u = (np.arange(points) + 0.5)[:, None, None] / points

    @jax.jit
    def run(flow, key):
        dequantizer = VariationalDequantizer(flow)
        noise = dequantizer.condition(images, num_bits=3)
        assert noise.event_shape == (1,) and noise.batch_shape == (3,)
        sample, log_prob = dequantizer.sample_and_log_prob(key, images, 3)
        return jnp.exp(noise.log_prob(u)), sample, log_prob, noise.log_prob(sample)

    densities, sample, log_prob, expected = map(
        np.asarray, run(drawn(make, 0.25), jax.random.key(2))
    )
    np.testing.assert_allclose(densities.mean(0), 1.0, atol=INTEGRAL)
    np.testing.assert_array_equal(densities[:, 0], densities[:, 1])  # the same level of 3 bits
    assert np.abs(densities[:, 0] - densities[:, 2]).max() > 0.01
    assert sample.shape == (3, 1) and (sample > 0).all() and (sample < 1).all()
    np.testing.assert_allclose(log_prob, expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)


def test_learned_noise_is_tighter():
    flow, optimizer = normal_flow(), optax.adam(1e-2)
    exact = exact_normal_log_mass(LEVELS)
    gap = lambda d: (exact - log_weights(flow, d).mean(0)).mean()

    def step(state, key):
        dequantizer, state = state
        loss = lambda d: -image_log_prob(key, flow, IMAGES, num_bits=BITS, dequantizer=d).mean()
        updates, state = optimizer.update(jax.grad(loss)(dequantizer), state)
        return (optax.apply_updates(dequantizer, updates), state), None

    @jax.jit
    def trained(dequantizer, key):
        start = (dequantizer, optimizer.init(dequantizer))
        return jax.lax.scan(step, start, jax.random.split(key, 300))[0][0]

    assert 0 < gap(trained(new_noise(), jax.random.key(0))) < 0.25 * gap(None)


def test_noise_starts_uniform():
    @jax.jit
    def run(dequantizer, flow):
        copies = jnp.tile(IMAGES, (200, 1, 1, 1))
        drawn_noise = dequantizer.sample_and_log_prob(jax.random.key(0), copies, BITS)
        joint = flow.replace(bijector=fd.Chain([flow.bijector, dequantizer.layer(BITS)]))
        x = dequantize(jax.random.key(1), IMAGES, num_bits=BITS)
        return *drawn_noise, joint.log_prob(x), flow.log_prob(x)

    noise, log_prob, given, expected = run(new_noise(), normal_flow())
    np.testing.assert_allclose(log_prob, 0.0, atol=10 * AGREE_F32)
    assert stats.kstest(np.ravel(noise), "uniform").pvalue > P_VALUE
    np.testing.assert_allclose(given, expected, atol=ROUND_TRIP_F32)


def test_as_a_layer_the_noise_gives_densities_of_the_bound(x64):
    y = np.asarray(dequantize(jax.random.key(1), IMAGES, num_bits=BITS), float)

    @jax.jit
    def run(dequantizer, flow, y):
        layer = dequantizer.layer(BITS)
        x, log_det = layer.inverse_and_log_det(y)
        jacobian = jax.jacfwd(lambda y: layer.inverse(y.reshape(SHAPE)).ravel())
        expected_log_det = jnp.linalg.slogdet(jax.vmap(jacobian)(y.reshape(-1, 2)))[1]
        joint = flow.replace(bijector=fd.Chain([flow.bijector, layer]))
        levels, u = bins(x, BITS)
        expected = flow.log_prob(x) - dequantizer.condition(IMAGES, BITS).log_prob(u)
        densities = joint.log_prob(y), expected
        values = x, layer.forward(x), levels, fd.to_uint8(x, BITS)
        return values, (log_det, expected_log_det), densities

    arguments = drawn(make_noise, 0.4), normal_flow(), y
    values, log_dets, densities = jax.tree.map(np.asarray, run(*arguments))
    x, back, levels, images = values
    assert np.abs(x - y).max() > 0.01
    np.testing.assert_allclose(back, y, atol=ROUND_TRIP_F64)
    np.testing.assert_allclose(*log_dets, atol=LOG_DET_F64)
    np.testing.assert_array_equal(images, IMAGES >> (8 - BITS) << (8 - BITS))
    np.testing.assert_array_equal(levels, LEVELS)
    np.testing.assert_allclose(*densities, rtol=LOG_DET_F64, atol=LOG_DET_F64)


def test_gradients_reach_the_flow_and_the_noise():
    dequantizer, flow = drawn(make_noise, 0.3), normal_flow()
    assert len(jax.tree.leaves(dequantizer)) == len(jax.tree.leaves(dequantizer.flow.bijector))
    assert "ConditionalFlow" in repr(dequantizer)
    mean = lambda flow, noise: log_mass(
        jax.random.key(0), flow, IMAGES, noise, num_bits=8, num_samples=2
    ).mean()
    for leaf in jax.tree.leaves(jax.jit(jax.grad(mean, (0, 1)))(flow, dequantizer)):
        assert np.isfinite(leaf).all() and np.any(leaf)


def test_flows_with_a_batch_shape():
    flow, images = CONDITIONAL.condition(np.ones((5, 3), np.float32)), np.zeros((4, 5, 2), np.uint8)
    key = jax.random.key(0)
    assert jax.eval_shape(lambda: image_log_prob(key, flow, images)).shape == (4, 5)


def real_nvp(event_shape, context_shape, **options):
    options |= {"num_layers": 2, "hidden_sizes": (4,)}
    return drawn(lambda key: fd.RealNVP(key, event_shape, context_shape=context_shape, **options))


CONDITIONAL = real_nvp((2,), (3,))
PIXELS = np.zeros((3, 2), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda key: image_log_prob(key, CONDITIONAL, PIXELS),
            TypeError,
            "`flow` must be a Flow, got ConditionalFlow; give it a context first",
        ),
        (
            lambda key: image_log_prob(key, dist.Normal(), PIXELS),
            TypeError,
            "`flow` must be a Flow, got Normal$",
        ),
        (
            lambda key: image_log_prob(key, normal_flow(), PIXELS),
            ValueError,
            r"`images` has shape \(3, 2\), expected \(\*batch, 1, 2, 1\)",
        ),
        (
            lambda key: image_log_prob(key, normal_flow(), IMAGES / 1.0),
            TypeError,
            "image_log_prob: `images` must be uint8, got float32 with values up to",
        ),
        (
            lambda key: image_log_prob(key, normal_flow(), IMAGES, num_bits=0),
            ValueError,
            "`num_bits` must be an int from 1 to 8, got 0",
        ),
        (
            lambda key: image_log_prob(key, normal_flow(), IMAGES, num_samples=0),
            ValueError,
            "`num_samples` must be an int of at least 1",
        ),
        (
            lambda key: image_log_prob(key, normal_flow(), IMAGES, dequantizer="uniform"),
            TypeError,
            "`dequantizer` must have a method `sample_and_log_prob`, got str",
        ),
        (
            lambda key: VariationalDequantizer(normal_flow()),
            TypeError,
            "`flow` must be a ConditionalFlow, got Flow",
        ),
        (
            lambda key: VariationalDequantizer(CONDITIONAL),
            ValueError,
            r"both its events and its contexts, got \(2,\) and \(3,\)",
        ),
        (
            lambda key: VariationalDequantizer(real_nvp((3,), (3,), base=dist.StudentT(5.0))),
            ValueError,
            "`flow` must have a standard normal base, .* got Independent",
        ),
        (
            lambda key: drawn(make_noise).sample_and_log_prob(key, PIXELS),
            ValueError,
            r"VariationalDequantizer: `images` has shape \(3, 2\)",
        ),
    ],
)
def test_misuse(call, error, match, key):
    with pytest.raises(error, match=match):
        call(key)
