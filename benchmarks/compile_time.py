"""Size of the compiled program, and the time to compile it, at two depths.

    python benchmarks/compile_time.py [--dim 16] [--depths 4 32] [--hidden 128 128]

For value_and_grad of each recipe's log_prob: characters of the lowered program, seconds to lower
and to compile it, and the ratios of the deeper to the shallower.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp

import flowdists as fd

RECIPES = {
    "RealNVP": fd.RealNVP,
    "Glow1D": fd.Glow1D,
    "MAF": fd.MAF,
    "NSF": fd.NSF,
    "NSF autoregressive": functools.partial(fd.NSF, autoregressive=True),
}


def measure(recipe, depth: int, dim: int, hidden: tuple[int, ...]) -> tuple[int, float]:
    make = functools.partial(recipe, event_shape=(dim,), num_layers=depth, hidden_sizes=hidden)
    flow = jax.eval_shape(make, jax.random.key(0))
    x = jax.ShapeDtypeStruct((256, dim), jnp.float32)
    times = []
    for _ in range(3):
        jax.clear_caches()
        loss = lambda bijector, x: -flow.replace(bijector=bijector).log_prob(x).mean()
        start = time.perf_counter()
        lowered = jax.jit(jax.value_and_grad(loss)).lower(flow.bijector, x)
        lowered.compile()
        times.append(time.perf_counter() - start)
    return len(lowered.as_text()), min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--depths", type=int, nargs=2, default=[4, 32])
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 128])
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    shallow, deep = args.depths
    print(f"jax {jax.__version__}; ratios of {deep} layers to {shallow}")
    print(f"{'recipe':20s} {'size':>9s} {'ratio':>6s}   {'lower and compile':>18s} {'ratio':>6s}")
    for name, recipe in RECIPES.items():
        size, seconds = measure(recipe, shallow, args.dim, tuple(args.hidden))
        deep_size, deep_seconds = measure(recipe, deep, args.dim, tuple(args.hidden))
        print(
            f"{name:20s} {size:9d} {deep_size / size:6.3f}   {seconds:16.2f} s "
            f"{deep_seconds / seconds:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
