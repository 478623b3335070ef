"""Latents of images: their scales, what is drawn anew, at which temperature."""

import functools

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

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
from tests.draws import drawn, normal
from tests.images.scales import (
    FLOWS,
    LATENT_SHAPES,
    SHAPE,
    assert_close,
    conditional,
    linear,
    of_labels,
    of_scales,
)

KEY = jax.random.key(0)


def images(seed, *batch):
    return normal(seed, (*batch, *SHAPE))


@functools.cache
def known(name):
    """All that is asserted of a flow, by name, from one program."""

    @jax.jit
    def evaluate(flow, z):
        batch = z.shape[: z.ndim - 1 - len(flow.batch_shape)]
        x = flow.bijector(z)
        latents = encode(flow, x)
        new = [reconstruct(KEY, flow, x, n) for n in range(3)]
        samples = flow.sample(KEY, batch)
        way = interpolate(flow, x[0], x[1], 5)
        return {
            "x": x,
            "latents": latents,
            "decoded": decode(flow, latents),
            "new": new,
            "new_latents": encode(flow, new[1]),
            "samples": samples,
            "sample_latents": encode(flow, samples),
            "straight": way,
            "spherical": interpolate(flow, x[0], x[1], 5, spherical=True),
            "way_latents": encode(flow, way[1]),
        }

    z = normal(2, (3, 2, 64))
    return jax.tree.map(np.asarray, {"z": z, **evaluate(FLOWS[name](), z)})


@pytest.mark.parametrize("name", FLOWS)
def test_latents_are_those_of_the_base_and_round_trip(name):
    found = known(name)
    assert [part.shape for part in found["latents"]] == [(3, 2, *s) for s in LATENT_SHAPES]
    flat = np.concatenate([part.reshape(3, 2, -1) for part in found["latents"]], -1)
    assert_close(flat, found["z"])
    assert_close(found["decoded"], found["x"])


@pytest.mark.parametrize("name", FLOWS)
def test_kept_scales_stay_and_the_others_are_drawn(name):
    found = known(name)
    new = found["new"]
    assert_close(new[0], found["samples"])
    assert_close(new[2], found["x"])
    fine, coarse = found["new_latents"]
    assert_close(coarse, found["latents"][1])
    assert_close(fine, found["sample_latents"][0])


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("name", FLOWS)
def test_interpolation_goes_from_end_to_end(name, spherical):
    found = known(name)
    x, way = found["x"], found["spherical" if spherical else "straight"]
    assert way.shape == (5, 2, *SHAPE)
    assert_close(way[0], x[0])
    assert_close(way[-1], x[1])
    if not spherical:
        for part, ends in zip(found["way_latents"], found["latents"], strict=True):
            assert_close(part, 0.75 * ends[0] + 0.25 * ends[1])


def shapes_of_latents(flow, *batch):
    x = jax.ShapeDtypeStruct((*batch, *SHAPE), np.float32)
    return [part.shape for part in jax.eval_shape(lambda x: encode(flow, x), x)]


def test_one_image_and_none():
    for batch in ((), (0,)):
        again = jax.eval_shape(
            lambda x: decode(linear(), encode(linear(), x)),
            jax.ShapeDtypeStruct((*batch, *SHAPE), np.float32),
        )
        assert again.shape == (*batch, *SHAPE)


def test_a_flow_without_scales_has_one():
    flow = drawn(lambda key: fd.RealNVP(key, (2, 2, 1), num_layers=2, hidden_sizes=(4,)))

    @jax.jit
    def run(flow, x):
        (latents,) = encode(flow, x)
        again = decode(flow, [latents]), reconstruct(KEY, flow, x, 1)
        way = interpolate(flow, x[:2], x[3:], 4, spherical=True)
        return latents, flow.bijector.inverse(x), again, way[-1]

    x = np.asarray(normal(0, (5, 2, 2, 1)))
    latents, expected, again, end = run(flow, x)
    np.testing.assert_array_equal(latents, expected)
    for given in again:
        assert_close(given, x)
    assert_close(end, x[3:])


def test_latents_of_several_batch_shapes_combine():
    @jax.jit
    def run(flow, x):
        fine, coarse = encode(flow, x)
        return decode(flow, (fine, coarse[:2, None])), decode(flow, (fine[4], coarse[1]))

    combined, one = run(of_scales(), images(3, 5))
    assert combined.shape == (2, 5, *SHAPE)
    assert_close(combined[1, 4], one)


def test_each_image_of_a_batch_gets_its_own_noise():
    x = np.broadcast_to(images(3), (2, 3, *SHAPE))
    one_label = conditional().condition(np.array([1]))
    flows = [linear(), linear().expand((1,)), one_label]
    for new in jax.jit(lambda flows, x: [reconstruct(KEY, f, x, 1) for f in flows])(flows, x):
        assert new.shape == x.shape
        assert len(np.unique(np.asarray(new).reshape(6, -1), axis=0)) == 6


def test_resampling_at_a_temperature():
    flow = linear(dist.StudentT(5.0, 0.5, 2.0))

    @jax.jit
    def run(x):
        warm = reconstruct(KEY, flow, x, 0, 0.6), flow.with_temperature(0.6).sample(KEY, (3,))
        return warm, encode(flow, reconstruct(KEY, flow, x, 1, 0.0)), encode(flow, x)

    warm, (fine, coarse), latents = run(images(3, 3))
    assert_close(*warm)
    assert_close(fine, np.full(fine.shape, 0.5))
    assert_close(coarse, latents[1])


BASES = {
    "standard": None,
    "gumbel": dist.Gumbel(1.0, 0.5),
    "cauchy": dist.Cauchy(-1.0, 0.1),
    "correlated": dist.MultivariateNormal(
        np.full(64, 0.3, np.float32), scale_tril=np.tri(64, dtype=np.float32) / 8
    ),
}


@pytest.mark.parametrize("name", BASES)
def test_fixed_noise_gives_the_samples_of_its_key(name):
    flow = linear(BASES[name])

    @jax.jit
    def run():
        noise = flow.base.sample(KEY, (4,))
        results = [(sample_from_noise(flow, noise), flow.bijector(noise))]
        for temperature in (0.0, 0.5):
            expected = flow.with_temperature(temperature).sample(KEY, (4,))
            results.append((sample_from_noise(flow, noise, temperature), expected))
            results.append((sample_from_noise(flow, noise, [temperature] * 2), expected))
        return results

    first, *others = run()
    np.testing.assert_array_equal(*first)
    for pair in others:
        assert_close(*pair)


def test_temperatures_of_scales():
    flow = linear(dist.Normal(0.5, 2.0))

    @jax.jit
    def run(noise, temperatures):
        mixed = sample_from_noise(flow, noise, temperatures), sample_from_noise(flow, noise, [1, 0])
        return encode(flow, flow.bijector(noise)), [encode(flow, image) for image in mixed]

    (fine, coarse), (mixed, cold) = run(normal(0, (4, 64)), np.array([0.5, 2.0], np.float32))
    assert_close(mixed[0], 0.5 + 0.5 * (fine - 0.5))
    assert_close(mixed[1], 0.5 + 2 * (coarse - 0.5))
    assert_close(cold[0], fine)
    assert_close(cold[1], np.full((4, 2, 2, 8), 0.5))


def test_a_base_without_a_scale_has_one_temperature():
    flow = fd.Flow(fd.StandardUniform((64,)), linear().bijector)

    @jax.jit
    def run():
        noise = flow.base.sample(KEY, (4,))
        x = flow.bijector(noise)
        samples = sample_from_noise(flow, noise, 1.0), flow.sample(KEY, (4,))
        return samples, (reconstruct(jax.random.key(1), flow, x, 2), x)

    for pair in run():
        assert_close(*pair)
    with pytest.raises(TypeError, match="the base must have a scale"):
        sample_from_noise(flow, np.full((4, 64), 0.5, np.float32), 0.5)


def test_gradients_reach_flow_and_images():
    flow, x, noise = of_labels(), images(3, 2, 2), normal(0, (64,))

    def total(flow, x, noise):
        direction = attribute_direction(flow, x[0], x[1])
        images = [
            reconstruct(KEY, flow, x, 1, 0.7),
            interpolate(flow, x[0], x[1], 3, spherical=True),
            move(flow, x, direction, 0.5),
            sample_from_noise(flow, noise, [0.5, 1.0]),
        ]
        return sum((image**2).sum() for image in images)

    gradients = jax.jit(jax.grad(total, (0, 1, 2)))(flow, x, noise)
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all() and np.any(leaf)


@pytest.mark.parametrize(
    ("options", "context"),
    [({"context_shape": (2,)}, np.ones((3, 2), np.float32)), ({"num_classes": 3}, np.arange(3))],
)
def test_scales_are_found_behind_a_context(options, context):
    options |= {"num_scales": 2, "steps_per_scale": 1, "hidden_channels": 4}
    flow = drawn(lambda key: fd.Glow(key, SHAPE, **options))
    for layers in (flow.bijector, fd.Chain([flow.bijector, fd.PixelLogit(SHAPE)])):
        given = flow.replace(bijector=layers).condition(context)
        assert shapes_of_latents(given, 3) == [(3, *shape) for shape in LATENT_SHAPES]
