"""Images on the way from one to another in latent space, and moved along directions."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

from flowdists.images import attribute_direction, encode, interpolate, move
from tests.draws import normal
from tests.images.scales import SHAPE, assert_close, linear
from tests.tolerances import AGREE_F32, ROUND_TRIP_F64


def images(seed, *batch):
    return normal(seed, (*batch, *SHAPE))


@pytest.mark.parametrize(("scales", "changed"), [([0], [0]), ([-1], [1]), ((), ()), (None, (0, 1))])
@pytest.mark.parametrize("spherical", [False, True])
def test_only_the_given_scales_change(scales, changed, spherical):
    flow = linear()

    @jax.jit
    def run(x):
        way = interpolate(flow, x[0], x[1], 3, scales=scales, spherical=spherical)
        return encode(flow, x), encode(flow, way)

    ends, latents = jax.tree.map(np.asarray, run(images(3, 2)))
    for i, (start, stop) in enumerate(ends):
        assert_close(latents[i][0], start)
        assert_close(latents[i][-1], stop if i in changed else start)
        assert (np.abs(latents[i][1] - start).max() > 0.1) == (i in changed)


def test_the_spherical_way_turns_at_constant_speed_about_the_location(x64):
    flow = linear(dist.Normal(3.0, 1.0))
    run = jax.jit(lambda a, b: encode(flow, interpolate(flow, a, b, 9, spherical=True)))
    for part in run(*(3.0 + images(3, 2))):
        vectors = np.asarray(part).reshape(9, -1) - 3.0
        norms = np.linalg.norm(vectors, axis=1)
        np.testing.assert_allclose(norms, np.linspace(norms[0], norms[-1], 9), rtol=ROUND_TRIP_F64)
        units = vectors / norms[:, None]
        angles = np.arccos((units[1:] * units[:-1]).sum(1))
        np.testing.assert_allclose(angles, np.arccos(units[0] @ units[-1]) / 8, rtol=ROUND_TRIP_F64)
        assert np.linalg.matrix_rank(vectors, tol=1e-6) == 2


@jax.jit
def spherical_way(a, b):
    """Three images on the way between two, and a derivative of theirs."""
    way = lambda a, b: interpolate(linear(), a, b, 3, spherical=True)
    return way(a, b), jax.grad(lambda a, b: (way(a, b) ** 2).sum(), (0, 1))(a, b)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 1 + 1e-6])
def test_the_spherical_way_between_latents_on_one_line(factor):
    a = np.asarray(images(3))
    way, gradient = spherical_way(a, np.float32(factor) * a)
    assert_close(way[0], a)
    assert_close(way[2], factor * a)
    assert_close(way[1], max(0.5 * (1 + factor), 0.0) * a)
    if factor > 0:
        assert all(np.isfinite(g).all() and np.any(g) for g in gradient)


def test_the_spherical_way_from_the_location():
    b = np.asarray(images(3))
    way, gradient = spherical_way(np.zeros_like(b), b)
    assert_close(way[0], 0 * b)
    assert_close(way[2], b)
    assert all(np.isfinite(g).all() for g in gradient)


def test_a_direction_is_the_difference_of_means():
    strengths = np.array([[-1.0], [0.7]], np.float32)

    @jax.jit
    def run(flow, x_with, x_without, x):
        direction = attribute_direction(flow, x_with, x_without)
        there = move(flow, x, direction, 0.7)
        moved = move(flow, x, direction, 0), move(flow, there, direction, -0.7)
        several = move(flow, x, direction, strengths)
        latents = [flow.bijector.inverse(each) for each in (x_with, x_without, x, there)]
        return direction, moved, there, several, latents

    x = images(3, 5)
    results = run(linear(), images(1, 3, 2), images(2, 4), x)
    direction, moved, there, several, latents = jax.tree.map(np.asarray, results)
    expected = latents[0].mean((0, 1)) - latents[1].mean(0)
    assert_close(np.concatenate([part.ravel() for part in direction]), expected)
    for image in moved:
        assert_close(image, x)
    assert_close(latents[3], latents[2] + 0.7 * expected)
    assert several.shape == (2, 5, *SHAPE)
    assert_close(several[1], there)


def test_moving_from_one_mean_to_the_other():
    """Images of a flow that only moves pixels move as their latents do."""
    x_with, x_without = np.asarray(images(3, 5)), np.asarray(images(4, 6))

    @jax.jit
    def run(start):
        direction = attribute_direction(linear(), x_with, x_without)
        return move(linear(), start, direction, 1.0)

    assert_close(run(x_without.mean(0)), x_with.mean(0), 10 * AGREE_F32)
