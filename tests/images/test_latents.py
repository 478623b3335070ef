"""Latents of images: scales, what is drawn anew, ways between images and along directions."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions.transforms import AffineTransform

import flowdists as fd
from flowdists.images import (
    attribute_direction,
    decode,
    encode,
    interpolate,
    move,
    reconstruct,
    sample_from_noise,
)
from tests import table
from tests.tolerances import AGREE_F32, ROUND_TRIP_F32, ROUND_TRIP_F64

SHAPE = (8, 8, 1)
LATENT_SHAPES = [(4, 4, 2), (2, 2, 8)]


def scales(context_shape=None):
    """Two scales, the finer of which depends on the coarser one, and both on a context."""
    top = fd.TopPrior((2, 2, 8), context_shape=context_shape)
    split = fd.SplitPrior((4, 4, 4), context_shape=context_shape)
    layer = fd.MultiScale(
        [
            fd.Chain([split, fd.Inverse(fd.Squeeze((8, 8, 1)))]),
            fd.Chain([top, fd.Inverse(fd.Squeeze((4, 4, 2)))]),
        ]
    )
    return table.perturb(jax.random.key(1), layer, 0.1)


def of_scales(base=None):
    base = fd.StandardNormal((64,)) if base is None else base
    if base.event_shape != (64,):
        base = base.expand((64,)).to_event(1)
    return fd.Flow(base, scales())


def conditional():
    return fd.ConditionalFlow(fd.StandardNormal((64,)), scales((3,)), num_classes=3)


def linear(loc=0.0):
    """A flow of two scales in which everything is known: it moves pixels, nothing else."""
    layer = fd.MultiScale([fd.Inverse(fd.Squeeze((8, 8, 1))), fd.Inverse(fd.Squeeze((4, 4, 2)))])
    return fd.Flow(dist.Normal(loc, 1.0).expand((64,)).to_event(1), layer)


def of_chain():
    return fd.Flow(fd.StandardNormal((64,)), fd.Chain([scales(), fd.PixelLogit(SHAPE)]))


def of_labels():
    return conditional().condition(jnp.array([0, 2]))


def of_labels_in_a_chain():
    flow = of_labels()
    return fd.Flow(flow.base, fd.Chain([fd.Chain([flow.bijector]), AffineTransform(0.5, 2.0)]))


FLOWS = {"scales": of_scales, "chain": of_chain, "labels": of_labels, "both": of_labels_in_a_chain}


def images_of(flow, *batch, seed=3):
    return flow.sample(jax.random.key(seed), batch)


def assert_close(given, expected, tolerance=ROUND_TRIP_F32):
    expected = np.asarray(expected)
    assert given.shape == expected.shape
    scale = 1 + np.abs(expected).max(initial=0)
    np.testing.assert_allclose(given, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", FLOWS)
def test_latents_are_those_of_the_base_and_round_trip(name):
    flow = FLOWS[name]()
    z = flow.base.sample(jax.random.key(2), (3,))
    x = flow.bijector(z)
    latents = encode(flow, x)
    assert [part.shape for part in latents] == [x.shape[:-3] + s for s in LATENT_SHAPES]
    flat = np.concatenate([p.reshape(*z.shape[:-1], -1) for p in latents], -1)
    assert_close(flat, z)
    assert_close(decode(flow, latents), x)


def test_glow():
    flow = fd.Glow(
        jax.random.key(0), SHAPE, num_scales=2, steps_per_scale=1, hidden_channels=8, num_classes=3
    )
    flow = table.perturb(jax.random.key(1), flow, 0.1).condition(jnp.array([1, 2]))

    @jax.jit
    def run(x):
        return encode(flow, x), reconstruct(jax.random.key(0), flow, x, 2)

    x = images_of(flow)
    latents, again = run(x)
    assert [part.shape for part in latents] == [(2, *shape) for shape in LATENT_SHAPES]
    assert_close(again, x)


def test_one_image_and_none():
    flow = of_scales()
    assert decode(flow, encode(flow, jnp.zeros(SHAPE))).shape == SHAPE
    assert decode(flow, encode(flow, jnp.zeros((0, *SHAPE)))).shape == (0, *SHAPE)


def test_a_flow_without_scales_has_one():
    flow = table.build_flow("real_nvp", (2, 2, 1))
    x = flow.sample(jax.random.key(0), (5,))
    (latents,) = encode(flow, x)
    np.testing.assert_array_equal(latents, flow.bijector.inverse(x))
    assert_close(decode(flow, [latents]), x)
    assert_close(reconstruct(jax.random.key(1), flow, x, 1), x)
    assert_close(interpolate(flow, x[:2], x[3:], 4, spherical=True)[-1], x[3:])


def test_latents_of_several_batch_shapes_combine():
    flow = of_scales()
    fine, coarse = encode(flow, images_of(flow, 5))
    combined = decode(flow, (fine, coarse[:2, None]))
    assert combined.shape == (2, 5, *SHAPE)
    assert_close(combined[1, 4], decode(flow, (fine[4], coarse[1])))


@pytest.mark.parametrize("name", FLOWS)
def test_kept_scales_stay_and_the_others_are_drawn(name):
    flow, key = FLOWS[name](), jax.random.key(7)
    batch = () if flow.batch_shape else (2,)
    x = images_of(flow, 3, *batch)
    new = jax.jit(lambda key: [reconstruct(key, flow, x, n) for n in range(3)])(key)
    assert_close(new[0], flow.sample(key, (3, *batch)))
    assert_close(new[2], x)
    old, (fine, coarse) = encode(flow, x), encode(flow, new[1])
    drawn, _ = encode(flow, flow.sample(key, (3, *batch)))
    assert_close(coarse, old[1])
    assert_close(fine, drawn)


def test_each_image_of_a_batch_gets_its_own_noise():
    x = jnp.broadcast_to(images_of(of_scales()), (2, 3, *SHAPE))
    one_label = conditional().condition(jnp.array([1]))
    for flow in (of_scales(), of_scales().expand((1,)), one_label):
        new = reconstruct(jax.random.key(0), flow, x, 1)
        assert new.shape == x.shape
        assert len(np.unique(np.asarray(new).reshape(6, -1), axis=0)) == 6


def test_resampling_at_a_temperature():
    base = dist.StudentT(5.0, 0.5, 2.0)
    flow, key = of_scales(base=base), jax.random.key(0)
    x = images_of(flow, 3)
    assert_close(reconstruct(key, flow, x, 0, 0.6), flow.with_temperature(0.6).sample(key, (3,)))
    fine, coarse = encode(flow, reconstruct(key, flow, x, 1, 0.0))
    assert_close(fine, np.full_like(fine, 0.5))
    assert_close(coarse, encode(flow, x)[1])


BASES = {
    "standard": None,
    "gumbel": dist.Gumbel(1.0, 0.5),
    "cauchy": dist.Cauchy(-1.0, 0.1),
    "correlated": dist.MultivariateNormal(jnp.full(64, 0.3), jnp.eye(64) + 0.5),
}


@pytest.mark.parametrize("name", BASES)
def test_fixed_noise_gives_the_samples_of_its_key(name):
    flow, key = of_scales(base=BASES[name]), jax.random.key(0)
    noise = flow.base.sample(key, (4,))
    np.testing.assert_array_equal(sample_from_noise(flow, noise), flow.bijector(noise))
    for temperature in (0.0, 0.5):
        expected = flow.with_temperature(temperature).sample(key, (4,))
        assert_close(sample_from_noise(flow, noise, temperature), expected)
        assert_close(sample_from_noise(flow, noise, [temperature] * 2), expected)


def test_temperatures_of_scales():
    flow = of_scales(base=dist.Normal(0.5, 2.0))
    noise = flow.base.sample(jax.random.key(0), (4,))
    fine, coarse = flow.bijector.pyramid(noise)
    mixed = jax.jit(lambda t: sample_from_noise(flow, noise, t))(jnp.array([0.5, 2.0]))
    assert_close(mixed, decode(flow, [0.5 + 0.5 * (fine - 0.5), 0.5 + 2 * (coarse - 0.5)]))
    mixed = sample_from_noise(flow, noise, [1, 0])
    assert_close(mixed, decode(flow, [fine, jnp.full((2, 2, 8), 0.5)]))


def test_a_base_without_a_scale_has_one_temperature():
    flow = fd.Flow(fd.StandardUniform((64,)), linear().bijector)
    noise = flow.base.sample(jax.random.key(0), (4,))
    assert_close(sample_from_noise(flow, noise, 1.0), flow.sample(jax.random.key(0), (4,)))
    x = flow.bijector(noise)
    assert_close(reconstruct(jax.random.key(1), flow, x, 2), x)
    with pytest.raises(TypeError, match="the base must have a scale"):
        sample_from_noise(flow, noise, 0.5)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("name", FLOWS)
def test_interpolation_goes_from_end_to_end(name, spherical):
    flow = FLOWS[name]()
    x = images_of(flow, 2, *(() if flow.batch_shape else (2,)))
    way = jax.jit(lambda x: interpolate(flow, x[0], x[1], 5, spherical=spherical))(x)
    assert way.shape == (5, 2, *SHAPE)
    assert_close(way[0], x[0])
    assert_close(way[-1], x[1])
    if not spherical:
        ends = encode(flow, x)
        for part, (a, b) in zip(encode(flow, way[1]), ends, strict=True):
            assert_close(part, 0.75 * a + 0.25 * b)


@pytest.mark.parametrize(("scales", "changed"), [([0], [0]), ([-1], [1]), ((), ()), (None, (0, 1))])
@pytest.mark.parametrize("spherical", [False, True])
def test_only_the_given_scales_change(scales, changed, spherical):
    flow = of_scales()
    a, b = images_of(flow, 2)
    way = interpolate(flow, a, b, 3, scales=scales, spherical=spherical)
    start, stop, latents = encode(flow, a), encode(flow, b), encode(flow, way)
    for i in range(2):
        assert_close(latents[i][0], start[i])
        assert_close(latents[i][-1], stop[i] if i in changed else start[i])
        assert (np.abs(latents[i][1] - start[i]).max() > 0.1) == (i in changed)


def test_the_spherical_way_turns_at_constant_speed_about_the_location(x64):
    flow = linear(loc=3.0)
    a, b = images_of(flow, 2)
    way = encode(flow, interpolate(flow, a, b, 9, spherical=True))
    for part in way:
        vectors = np.asarray(part).reshape(9, -1) - 3.0
        norms = np.linalg.norm(vectors, axis=1)
        np.testing.assert_allclose(norms, np.linspace(norms[0], norms[-1], 9), rtol=ROUND_TRIP_F64)
        units = vectors / norms[:, None]
        angles = np.arccos((units[1:] * units[:-1]).sum(1))
        np.testing.assert_allclose(angles, np.arccos(units[0] @ units[-1]) / 8, rtol=ROUND_TRIP_F64)
        assert np.linalg.matrix_rank(vectors, tol=1e-6) == 2


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 1 + 1e-6])
def test_the_spherical_way_between_latents_on_one_line(factor):
    flow = linear()
    a = images_of(flow)
    image = lambda a, b: interpolate(flow, a, b, 3, spherical=True)
    way = image(a, factor * a)
    assert_close(way[0], a)
    assert_close(way[2], factor * a)
    assert_close(way[1], max(0.5 * (1 + factor), 0.0) * a)
    if factor > 0:
        gradient = jax.grad(lambda a, b: (image(a, b) ** 2).sum(), (0, 1))(a, factor * a)
        assert all(jnp.isfinite(g).all() and (g != 0).any() for g in gradient)


def test_the_spherical_way_from_the_location():
    flow, b = linear(), images_of(linear())
    total = lambda a: (interpolate(flow, a, b, 3, spherical=True)[jnp.array([0, 2])]).sum((1, 2, 3))
    ends, derivative = jax.jvp(total, (jnp.zeros(SHAPE),), (jnp.ones(SHAPE),))
    assert_close(ends, np.array([0.0, b.sum()]))
    assert jnp.isfinite(derivative).all()


def test_a_direction_is_the_difference_of_means():
    flow = of_scales()
    x_with, x_without = images_of(flow, 3, 2), images_of(flow, 4, seed=4)
    direction = attribute_direction(flow, x_with, x_without)
    expected = flow.bijector.inverse(x_with).mean((0, 1)) - flow.bijector.inverse(x_without).mean(0)
    for part, wanted in zip(direction, flow.bijector.pyramid(expected), strict=True):
        assert_close(part, wanted)
    x = images_of(flow, 5)
    assert_close(move(flow, x, direction, 0), x)
    there = move(flow, x, direction, 0.7)
    assert_close(move(flow, there, direction, -0.7), x)
    assert_close(flow.bijector.inverse(there), flow.bijector.inverse(x) + 0.7 * expected)
    several = move(flow, x, direction, np.array([[-1.0], [0.7]]))
    assert several.shape == (2, 5, *SHAPE)
    assert_close(several[1], there)


def test_moving_from_one_mean_to_the_other():
    """Images of a flow that only moves pixels move as their latents do."""
    flow = linear()
    x_with, x_without = images_of(flow, 5), images_of(flow, 6, seed=4)
    direction = attribute_direction(flow, x_with, x_without)
    moved = move(flow, x_without.mean(0), direction, 1.0)
    assert_close(moved, x_with.mean(0), 10 * AGREE_F32)


def test_gradients_reach_flow_and_images():
    flow = of_labels()
    x, noise = images_of(flow, 2), flow.base.sample(jax.random.key(0))

    def total(flow, x, noise):
        direction = attribute_direction(flow, x[0], x[1])
        images = [
            reconstruct(jax.random.key(0), flow, x, 1, 0.7),
            interpolate(flow, x[0], x[1], 3, spherical=True),
            move(flow, x, direction, 0.5),
            sample_from_noise(flow, noise, [0.5, 1.0]),
        ]
        return sum((image**2).sum() for image in images)

    gradients = jax.jit(jax.grad(total, (0, 1, 2)))(flow, x, noise)
    for leaf in jax.tree.leaves(gradients):
        assert jnp.isfinite(leaf).all() and (leaf != 0).any()


def test_scales_are_found_behind_an_embedded_context():
    flow = fd.Glow(
        KEY, SHAPE, num_scales=2, steps_per_scale=1, hidden_channels=4, context_shape=(2,)
    )
    chain = fd.Chain([flow.bijector, fd.PixelLogit(SHAPE)])
    for layers in (flow.bijector, chain):
        given = fd.ConditionalFlow(flow.base, layers).condition(jnp.ones((3, 2)))
        latents = encode(given, jnp.zeros((3, *SHAPE)))
        assert [part.shape for part in latents] == [(3, *shape) for shape in LATENT_SHAPES]


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
    call(LEVELS - 1)
    call((LEVELS > 100).astype(np.float32))
    jax.eval_shape(call, LEVELS)
    assert any(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(jax.jit(call)(HOLE)))


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
