"""Autoregressive sampling by one sweep, against the density and against one pass per dimension.

Run ``python -m benchmarks.autoregressive_sampling``; times are minima over repeats, in
milliseconds, of a stack of layers under ``Repeat``.
"""

import argparse
import math
import time

import jax
import jax.numpy as jnp

from flowdists.bijectors import MaskedAutoregressive, Repeat
from flowdists.transformers import RationalQuadratic, ShiftScale

TRANSFORMERS = {"affine": ShiftScale(), "spline": RationalQuadratic()}


def make_stack(key, transformer, args):
    def make_layer(key):
        layer = MaskedAutoregressive(
            key,
            (args.dim,),
            transformer=transformer,
            hidden_sizes=(args.hidden,) * 2,
            residual=args.residual,
        )
        leaves, structure = jax.tree.flatten(layer)
        keys = jax.random.split(key, len(leaves))
        moves = [0.02 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(structure, [a + b for a, b in zip(leaves, moves, strict=True)])

    return Repeat(key, make_layer, args.layers)


def density(stack, x):
    return stack.inverse_and_log_det(x)


def sweep(stack, z):
    return stack.forward_and_log_det(z)


def passes(stack, z):
    """The usual way: evaluate the whole network once for each dimension, and keep one element."""

    def layer_step(carry, layer):
        z, total = carry

        def step(i, x):
            x_new, _ = layer.transformer.forward(z, layer.network(x))
            return x.at[:, i].set(x_new[:, i])

        x = jax.lax.fori_loop(0, z.shape[1] - 1, step, z)
        x, log_slope = layer.transformer.forward(z, layer.network(x))
        return (x, total + log_slope.sum(-1)), None

    return jax.lax.scan(layer_step, (z, jnp.zeros(len(z))), stack.layers)[0]


def gradient(direction):
    return jax.grad(lambda stack, x: sum(jnp.sum(out**2) for out in direction(stack, x)))


def milliseconds(function, repeats, *arguments):
    """Time to compile, and the minimal time of a run."""
    start = time.perf_counter()
    function = jax.jit(function).lower(*arguments).compile()
    compilation = 1e3 * (time.perf_counter() - start)
    best = math.inf
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        best = min(best, 1e3 * (time.perf_counter() - start))
    return compilation, best


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--residual", action="store_true")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--gradients", action="store_true", help="time gradients too")
    parser.add_argument("--transformers", nargs="+", choices=TRANSFORMERS, default=[*TRANSFORMERS])
    args = parser.parse_args()

    print(f"jax {jax.__version__}, {args.layers} layers, {args.dim} dimensions, batch {args.batch}")
    z = jax.random.normal(jax.random.key(1), (args.batch, args.dim))
    for name in args.transformers:
        stack = make_stack(jax.random.key(0), TRANSFORMERS[name], args)
        functions = {"density": density, "sweep": sweep, "passes": passes}
        if args.gradients:
            functions["density, gradient"] = gradient(density)
            functions["sweep, gradient"] = gradient(sweep)
        reference = None
        for label, function in functions.items():
            repeats = 2 if label == "passes" else args.repeats
            compilation, run = milliseconds(function, repeats, stack, z)
            reference = reference or run
            print(
                f"{name:8} {label:18} {run:9.2f} ms  {run / reference:7.2f} x density"
                f"   (compiled in {compilation / 1e3:.1f} s)"
            )


if __name__ == "__main__":
    main()
