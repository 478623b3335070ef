"""Bounds of log-masses, against masses known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats

import flowdists as fd
from flowdists.images import (
    VariationalDequantizer,
    bits_per_dim,
    dequantize,
    fit_dequantized,
    image_log_prob,
    reduce_bits,
)
from flowdists.images.pixels import bins
from tests import table
from tests.images.known import (
    BITS,
    IMAGES,
    LEVELS,
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


def log_weights(flow, count, dequantizer=None):
    """Independent single-sample bounds of every image, ``(count, 16)``."""
    copies = jnp.broadcast_to(IMAGES, (count, *IMAGES.shape))
    function = jax.jit(
        lambda key: image_log_prob(key, flow, copies, num_bits=BITS, dequantizer=dequantizer)
    )
    return np.asarray(function(jax.random.key(1)), np.float64)


def assert_means(samples, expected):
    errors = STANDARD_ERRORS * samples.std(0) / len(samples) ** 0.5
    assert (np.abs(samples.mean(0) - expected) <= errors + AGREE_F32).all()


def variational(key=0, scale=0.0):
    flow = fd.RealNVP(
        jax.random.key(key), SHAPE, context_shape=SHAPE, num_layers=2, hidden_sizes=(16,)
    )
    layers = table.perturb(jax.random.key(key), flow.bijector, scale)
    return VariationalDequantizer(flow.replace(bijector=layers))


@pytest.mark.parametrize("num_samples", [1, 3])
def test_exact_where_the_density_is_constant_in_each_bin(num_samples):
    flow = histogram_flow()
    log_mass = image_log_prob(
        jax.random.key(0), flow, IMAGES, num_bits=BITS, num_samples=num_samples
    )
    expected = np.asarray(jax.nn.log_softmax(flow.bijector.logits))[LEVELS].sum((1, 2, 3))
    assert log_mass.shape == (16,)
    bits = bits_per_dim(log_mass, SHAPE, num_bits=0)
    np.testing.assert_allclose(bits, -expected / (2 * np.log(2)), atol=1e-5)
    np.testing.assert_allclose(np.exp(log_mass).sum(), 1.0, atol=1e-5)
    # As with the density of dequantized data.
    x = dequantize(jax.random.key(1), IMAGES, num_bits=BITS)
    np.testing.assert_allclose(bits_per_dim(flow.log_prob(x), SHAPE, BITS), bits, atol=1e-5)


@pytest.mark.parametrize("num_bits", range(1, 9))
def test_a_uniform_density_costs_all_bits(num_bits):
    shape = (3, 4, 1)
    flow = fd.Flow(fd.StandardUniform(shape, -0.5, 0.5), fd.Reverse(shape))
    images = jax.random.bits(jax.random.key(0), (2, 5, *shape), jnp.uint8)
    log_mass = image_log_prob(jax.random.key(1), flow, images, num_bits=num_bits)
    assert log_mass.shape == (2, 5)
    np.testing.assert_allclose(bits_per_dim(log_mass, shape, 0), num_bits, atol=1e-5)


@pytest.mark.parametrize("learned", [False, True])
def test_weights_are_unbiased_and_their_logarithms_a_lower_bound(learned):
    dequantizer = variational(1, 0.1) if learned else None
    exact = exact_normal_log_mass(LEVELS)
    weights = log_weights(normal_flow(), 4000, dequantizer)
    assert_means(np.exp(weights - exact), 1.0)
    assert (weights.mean(0) < exact).all()


def test_the_masses_of_a_spline_add_up():
    """On [-0.5, 0.5]: also exact masses telescope, between values of the CDF at bin edges."""
    spline = fd.RationalQuadraticSpline(SHAPE, num_bins=5, bound=0.5)
    spline = table.perturb(jax.random.key(2), spline, 0.7)
    flow = fd.Flow(fd.StandardUniform(SHAPE, -0.5, 0.5), spline)
    edges = jnp.broadcast_to(jnp.linspace(-0.5, 0.5, 5).reshape(-1, 1, 1, 1), (5, *SHAPE))
    masses = np.diff(np.asarray(spline.inverse(edges)).reshape(5, 2), axis=0)
    exact = np.log(masses[LEVELS.reshape(-1, 2), [0, 1]]).sum(-1)
    weights = np.exp(log_weights(flow, 4000))
    assert_means(weights / np.exp(exact), 1.0)
    assert_means(weights.sum(1), 1.0)


def test_more_samples_converge_to_the_mass():
    flow, exact = normal_flow(), exact_normal_log_mass(LEVELS)
    count = 4000
    bound = image_log_prob(jax.random.key(0), flow, IMAGES, num_bits=BITS, num_samples=count)
    errors = np.exp(log_weights(flow, count) - exact).std(0) / count**0.5
    assert (np.abs(np.expm1(bound - exact)) < STANDARD_ERRORS * errors).all()


def test_the_density_of_noise_integrates_to_one(x64):
    flow = fd.MAF(jax.random.key(0), (1,), context_shape=(1,), num_layers=2, hidden_sizes=(8,))
    dequantizer = VariationalDequantizer(table.perturb(jax.random.key(1), flow, 0.4))
    images = jnp.array([[0], [31], [200]], jnp.uint8)
    points = 20_000
    u = ((jnp.arange(points) + 0.5) / points)[:, None]
    noise = [dequantizer.condition(image, num_bits=3) for image in images]
    assert all(each.event_shape == (1,) for each in noise)
    densities = np.exp([each.log_prob(u) for each in noise])
    np.testing.assert_allclose(densities.mean(1), 1.0, atol=INTEGRAL)
    np.testing.assert_array_equal(densities[0], densities[1])  # the same level of 3 bits
    assert np.abs(densities[0] - densities[2]).max() > 0.01
    sample, log_prob = dequantizer.sample_and_log_prob(jax.random.key(2), images, 3)
    assert sample.shape == (3, 1) and (sample > 0).all() and (sample < 1).all()
    expected = [each.log_prob(v) for each, v in zip(noise, sample, strict=True)]
    np.testing.assert_allclose(log_prob, expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)


def test_learned_noise_is_tighter():
    flow, dequantizer = normal_flow(), variational()
    optimizer = optax.adam(1e-2)
    exact = exact_normal_log_mass(LEVELS)
    gap = lambda d: (exact - log_weights(flow, 2000, d).mean(0)).mean()
    uniform = gap(None)

    @jax.jit
    def step(dequantizer, state, key):
        def loss(dequantizer):
            return -image_log_prob(key, flow, IMAGES, num_bits=BITS, dequantizer=dequantizer).mean()

        updates, state = optimizer.update(jax.grad(loss)(dequantizer), state)
        return optax.apply_updates(dequantizer, updates), state

    state = optimizer.init(dequantizer)
    for i in range(300):
        dequantizer, state = step(dequantizer, state, jax.random.key(i))
    assert 0 < gap(dequantizer) < 0.25 * uniform


def test_noise_starts_uniform():
    dequantizer, flow = variational(), normal_flow()
    noise, log_prob = dequantizer.sample_and_log_prob(
        jax.random.key(0), jnp.tile(IMAGES, (200, 1, 1, 1)), BITS
    )
    np.testing.assert_allclose(log_prob, 0.0, atol=10 * AGREE_F32)
    assert stats.kstest(np.ravel(noise), "uniform").pvalue > P_VALUE
    joint = flow.replace(bijector=fd.Chain([flow.bijector, dequantizer.layer(BITS)]))
    x = dequantize(jax.random.key(1), IMAGES, num_bits=BITS)
    np.testing.assert_allclose(joint.log_prob(x), flow.log_prob(x), atol=ROUND_TRIP_F32)


def test_as_a_layer_the_noise_gives_densities_of_the_bound(x64):
    dequantizer = variational(1, 0.3)
    layer = dequantizer.layer(BITS)
    y = dequantize(jax.random.key(1), IMAGES, num_bits=BITS).astype(float)
    x, log_det = layer.inverse_and_log_det(y)
    assert jnp.abs(x - y).max() > 0.01
    np.testing.assert_allclose(layer.forward(x), y, atol=ROUND_TRIP_F64)
    matrix = jax.vmap(jax.jacfwd(lambda y: layer.inverse(y.reshape(SHAPE)).ravel()))(
        y.reshape(-1, 2)
    )
    np.testing.assert_allclose(log_det, jnp.linalg.slogdet(matrix)[1], atol=LOG_DET_F64)
    np.testing.assert_array_equal(fd.to_uint8(x, BITS), IMAGES >> (8 - BITS) << (8 - BITS))
    levels, u = bins(x, BITS)
    np.testing.assert_array_equal(levels, LEVELS)
    flow = normal_flow()
    joint = flow.replace(bijector=fd.Chain([flow.bijector, layer]))
    expected = flow.log_prob(x) - dequantizer.condition(IMAGES, BITS).log_prob(u)
    np.testing.assert_allclose(joint.log_prob(y), expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)


def test_gradients_reach_the_flow_and_the_noise():
    dequantizer, flow = variational(1, 0.2), normal_flow()
    assert len(jax.tree.leaves(dequantizer)) == len(jax.tree.leaves(dequantizer.flow.bijector))
    assert "ConditionalFlow" in repr(dequantizer)
    gradient = jax.grad(
        lambda parts: image_log_prob(
            jax.random.key(0), parts[0], IMAGES, dequantizer=parts[1], num_samples=2
        ).mean()
    )((flow, dequantizer))
    for leaf in jax.tree.leaves(gradient):
        assert jnp.isfinite(leaf).all() and (leaf != 0).any()


def test_flows_with_a_batch_shape():
    shape = (2,)
    flow = table.build_flow("real_nvp", shape, context_shape=(3,)).condition(jnp.ones((5, 3)))
    images = jnp.zeros((4, 5, 2), jnp.uint8)
    assert image_log_prob(jax.random.key(0), flow, images).shape == (4, 5)


CONDITIONAL = table.build_flow("real_nvp", (2,), context_shape=(3,))
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
            lambda key: VariationalDequantizer(
                table.build_flow("real_nvp", (3,), context_shape=(3,), base=dist.StudentT(5.0))
            ),
            ValueError,
            "`flow` must have a standard normal base, .* got Independent",
        ),
        (
            lambda key: variational().sample_and_log_prob(key, PIXELS),
            ValueError,
            r"VariationalDequantizer: `images` has shape \(3, 2\)",
        ),
    ],
)
def test_misuse(call, error, match, key):
    with pytest.raises(error, match=match):
        call(key)


def test_reduced_levels_are_those_of_the_images():
    np.testing.assert_array_equal(reduce_bits(IMAGES, BITS), LEVELS)


def structured(rows):
    """Images of two levels per pixel, the second equal to the first nine times in ten."""
    first, differs = np.random.default_rng(0).random((2, rows)) < np.array([[0.3], [0.1]])
    return jnp.asarray(128 * np.stack([first, first ^ differs], 1).reshape(-1, *SHAPE), jnp.uint8)


def test_flow_and_noise_train_together():
    """Each bin's uniform noise is a square; learned noise fits what the flow can make of it."""
    images, key = structured(1000), jax.random.key(0)
    start = fd.RealNVP(key, SHAPE, num_layers=4, hidden_sizes=(16,))
    options = {"optimizer": optax.adam(3e-3), "batch_size": 100, "max_epochs": 40}
    options |= {"validation": images[:200], "progress": False}
    uniform = functools.partial(dequantize, num_bits=1)
    plain = fd.fit(key, start, images, transform=uniform, **options)
    fitted = fit_dequantized(key, start, variational(), images, num_bits=1, **options)
    assert fitted.flow.recipe == start.recipe

    def bound(flow, dequantizer=None):
        return image_log_prob(
            key, flow, images, num_bits=1, dequantizer=dequantizer, num_samples=20
        ).mean()

    assert bound(fitted.flow, fitted.dequantizer) > bound(plain.flow) + 0.02
    single = image_log_prob(
        key, fitted.flow, jnp.tile(images, (5, 1, 1, 1)), num_bits=1, dequantizer=fitted.dequantizer
    )
    history = fitted.history
    reached = -history.validation[history.best_epoch] - 2 * np.log(2)
    assert abs(single.mean() - reached) < STANDARD_ERRORS * single.std() / 200**0.5


def test_joint_training_of_conditional_flows_and_its_errors():
    key, images = jax.random.key(0), structured(20)
    start = fd.RealNVP(key, SHAPE, num_layers=2, hidden_sizes=(4,), num_classes=3)
    run = functools.partial(fit_dequantized, key, max_epochs=1, progress=False, validation=0.0)
    labels = jnp.arange(20) % 3
    flow, dequantizer, _ = run(start, variational(), images, context=labels)
    assert flow.condition(labels).log_prob(fd.images.from_uint8(images)).shape == (20,)
    assert dequantizer.sample_and_log_prob(key, images)[1].shape == (20,)
    destroy = optax.stateless(lambda updates, params: jax.tree.map(lambda u: u / 0, updates))
    with pytest.raises(fd.NonFiniteLossError) as error:
        run(start, variational(), images, context=labels, optimizer=destroy)
    assert isinstance(error.value.result, fd.images.DequantizedFit)
    with pytest.raises(TypeError, match="must be a VariationalDequantizer, got NoneType"):
        run(start, None, images)
    with pytest.raises(ValueError, match=r"noise of the shape \(2,\) .* got \(1, 2, 1\)"):
        run(table.build_flow("real_nvp", (2,)), variational(), images)
    with pytest.raises(TypeError, match="must be uint8, got float32"):
        run(start, variational(), images / 255, context=labels)
    with pytest.raises(ValueError, match="`num_bits` must be an int from 1 to 8, got 9"):
        run(start, variational(), images, num_bits=9)
