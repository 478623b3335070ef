"""The spline kernel against the usual one: gathers of the chosen bin and plain autodiff.

Run ``python -m benchmarks.spline_kernel``; times are minima over repeats, in milliseconds.
"""

import argparse
import math
import time

import jax
import jax.numpy as jnp

from flowdists.transformers import RationalQuadratic


def gather_forward(spline, x, params):
    """Linear tails only, with ``params`` of shape ``(*x.shape, num_params)``, best for gathers."""
    k, bound = spline.num_bins, spline.bound

    def knots(logits, minimum):
        sizes = minimum + (1 - k * minimum) * jax.nn.softmax(logits)
        return jnp.pad(2 * bound * jnp.cumsum(sizes, -1), [(0, 0)] * x.ndim + [(1, 0)]) - bound

    def at(values, index):
        return jnp.take_along_axis(values, index, axis=-1)[..., 0]

    xs = knots(params[..., :k], spline.min_width)
    ys = knots(params[..., k : 2 * k], spline.min_height)
    raw = jnp.pad(params[..., 2 * k :], [(0, 0)] * x.ndim + [(1, 1)])
    slopes = spline.min_slope + (1 - spline.min_slope) / math.log(2) * jax.nn.softplus(raw)

    inside = jnp.abs(x) < bound
    x_in = jnp.where(inside, x, 0.0)
    index = jnp.sum(x_in[..., None] >= xs[..., 1:-1], axis=-1, keepdims=True)
    x0, y0, d0, d1 = at(xs, index), at(ys, index), at(slopes, index), at(slopes, index + 1)
    width, height = at(xs, index + 1) - x0, at(ys, index + 1) - y0
    s, xi = height / width, (x_in - x0) / width
    mixed = xi * (1 - xi)
    denominator = s + (d0 + d1 - 2 * s) * mixed
    y = y0 + height * (s * xi**2 + d0 * mixed) / denominator
    slope = s**2 * (d1 * xi**2 + 2 * s * mixed + d0 * (1 - xi) ** 2) / denominator**2
    return jnp.where(inside, y, x), jnp.where(inside, jnp.log(slope), 0.0)


def value_and_grad(apply):
    return jax.value_and_grad(lambda *args: sum(jnp.sum(r) for r in apply(*args)), argnums=(0, 1))


def milliseconds(functions, repeats):
    """Minimal times of ``{name: (function, *args)}``, interleaved so that all see the same load."""
    jitted = {name: (jax.jit(function), args) for name, (function, *args) in functions.items()}
    best = dict.fromkeys(jitted, math.inf)
    for repeat in range(repeats + 1):
        for name, (function, args) in jitted.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*args))
            if repeat:  # the first call compiles
                best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def layouts(spline, batch, width, key):
    """A dense layer before the spline, its outputs laid out in three ways.

    "last" moves the parameter axis of (B, P, D) to the front, "major" that of (B, D, P), and
    "transposed" computes (P, D, B) at once and runs the spline on x transposed, (D, B).
    """
    (b, d), p = batch, spline.num_params
    x, h = jax.random.normal(key, (b, d)), jax.random.normal(key, (b, width))
    weight = 0.1 * jax.random.normal(key, (width, p * d))

    def last(weight, x):
        return spline.forward(x, jnp.moveaxis((h @ weight).reshape(b, p, d), -2, 0))

    def major(weight, x):
        return spline.forward(x, jnp.moveaxis((h @ weight).reshape(b, d, p), -1, 0))

    def transposed(weight, x):
        y, log_slope = spline.forward(x.T, (weight.T @ h.T).reshape(p, d, b))
        return y.T, log_slope.T

    rules = {"(B,P,D)": last, "(B,D,P)": major, "(P,D,B)": transposed}
    return {f"dense {name}": (value_and_grad(rule), weight, x) for name, rule in rules.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=2, default=(1024, 16))
    parser.add_argument("--bins", type=int, default=8)
    parser.add_argument("--width", type=int, default=128, help="of the hidden layer before")
    parser.add_argument("--repeats", type=int, default=100)
    args = parser.parse_args()

    spline = RationalQuadratic(num_bins=args.bins)
    keys = jax.random.split(jax.random.key(0))
    x = 2 * jax.random.normal(keys[0], args.shape)
    params = jax.random.normal(keys[1], (spline.num_params, *args.shape))
    params_last = jnp.moveaxis(params, 0, -1)

    def gather(x, params):
        return gather_forward(spline, x, params)

    def report(title, times, baseline):
        print(title)
        for name, best in times.items():
            print(f"  {name:24s} {best:7.3f} ms  {times[baseline] / best:5.2f} x")

    print(f"jax {jax.__version__}, shape {tuple(args.shape)}, {args.bins} bins")
    values = {
        "gather": (gather, x, params_last),
        "forward": (spline.forward, x, params),
        "inverse": (spline.inverse, x, params),
    }
    report("value and log-slope", milliseconds(values, args.repeats), "gather")
    gradients = {name: (value_and_grad(rule), *rest) for name, (rule, *rest) in values.items()}
    report("value and gradient", milliseconds(gradients, args.repeats), "gather")
    dense = layouts(spline, args.shape, args.width, keys[0])
    report(
        "dense layer and spline, value and gradient",
        milliseconds(dense, args.repeats),
        "dense (B,P,D)",
    )


if __name__ == "__main__":
    main()
