"""Splines that the tests share, with their inputs, parameters, and knots by the definition."""

import jax
import numpy as np
import pytest

from flowdists.transformers import RationalQuadratic
from tests.transformers import evaluation

LINEAR = RationalQuadratic()
CIRCULAR = RationalQuadratic(tails="circular")
SMALL = RationalQuadratic(num_bins=2, bound=1.5, min_width=0.1, min_height=0.05, min_slope=0.2)
LARGE = RationalQuadratic(num_bins=16, bound=10.0, tails="circular")
SPLINES = [LINEAR, CIRCULAR, SMALL, LARGE]
each_spline = pytest.mark.parametrize(
    "spline", SPLINES, ids=["linear", "circular", "small", "large"]
)
each_tails = pytest.mark.parametrize("spline", [LINEAR, CIRCULAR], ids=["linear", "circular"])
DIRECTIONS = ["forward", "inverse"]
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def draw_params(spline, shape, scale=1.5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (scale * rng.standard_normal((spline.num_params, *shape))).astype(dtype)


def draw_inputs(spline, n, seed=1):
    """Inputs inside the bounds, and for linear tails as many outside of them."""
    reach = 2.0 if spline.tails == "linear" else 0.999
    return np.random.default_rng(seed).uniform(-reach * spline.bound, reach * spline.bound, n)


def spline_bins(spline, params):
    """Knots and slopes of one spline, from the definition, ``params`` of shape (P,)."""
    k, bound = spline.num_bins, spline.bound

    def knots(logits, minimum):
        weights = np.exp(logits - logits.max())
        sizes = minimum + (1 - k * minimum) * weights / weights.sum()
        return np.concatenate([[-bound], -bound + 2 * bound * np.cumsum(sizes)])

    raw = params[2 * k :]
    raw = np.append(raw, raw[0]) if spline.tails == "circular" else np.pad(raw, 1)
    slopes = spline.min_slope + (1 - spline.min_slope) * np.logaddexp(raw, 0) / np.log(2)
    return knots(params[:k], spline.min_width), knots(params[k : 2 * k], spline.min_height), slopes


def special_points(spline, params):
    """Zero, the bounds and their neighbours, far values, and the exact knots of both axes."""
    bound = spline.bound
    near = np.concatenate([bound * (1 + e * np.array([-1, 1])) for e in (1e-3, 1e-6, 1e-12)])
    points = np.concatenate([[0.0, bound, 1e3, 1e6], near])
    xs, ys, _ = spline_bins(spline, params)
    return np.concatenate([points, -points, xs, ys])


def extreme_params(spline, dtype):
    """Random parameters, random signs times a size, and each block alone at a size."""
    rng = np.random.default_rng(3)
    k, p = spline.num_bins, spline.num_params
    columns = [rng.standard_normal(p), 5 * rng.standard_normal(p)]
    for size in (50.0, 1e3):
        columns += [size * rng.choice([-1, 1], p) for _ in range(4)]
        columns += [np.full(p, size), np.full(p, -size)]
        for block in (slice(0, k), slice(k, 2 * k), slice(2 * k, p)):
            column = np.zeros(p)
            column[block] = size * rng.choice([-1, 1], len(column[block]))
            columns.append(column)
    return np.stack(columns).astype(dtype)


def tile(params, n):
    return np.repeat(params[:, None], n, axis=1)


def values_and_gradients(spline, direction, x, params):
    """As the function of this name, padded to one length: so there is one program for all."""
    size, padding = len(x), [(0, 512 - len(x))]
    padded = np.pad(x, padding, "edge"), np.pad(params, [(0, 0), *padding], "edge")
    results = evaluation.values_and_gradients(spline, direction, *padded)
    return jax.tree.map(lambda leaf: leaf[..., :size], results)


def evaluate(spline, direction, x, params):
    return values_and_gradients(spline, direction, x, params)[0]
