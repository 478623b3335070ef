"""What a multi-scale Glow costs: its scan over depth, its memory, a training step.

    python benchmarks/glow.py [scan compile memory train] [--shallow 4] [--deep 32] [...]

Four parts, each with the limit it is held to. Gradients are those of the mean negative
log-density in the parameters, under jit.

* scan: time of a gradient, scanned steps against the same steps unrolled;
* compile: CPU seconds to lower and compile a gradient, deep against shallow;
* memory: temporary bytes of a compiled gradient, deep against shallow, and the time of one, with
  ``memory="invert"`` against "store";
* train: milliseconds of a gradient and an Adam update of a 32x32x3 Glow, in calls of ten as in
  training, against those of the same Glow by normflows (PyTorch), where that is installed.
"""

import argparse
import functools
import time

import jax
import numpy as np
import optax

import flowdists as fd

STEPS_PER_CALL = 10


def build(event_shape, steps: int, channels: int, memory: str = "store", scales: int = 2):
    make = functools.partial(
        fd.Glow,
        event_shape=event_shape,
        num_scales=scales,
        steps_per_scale=steps,
        hidden_channels=channels,
        memory=memory,
    )
    return jax.jit(make)(jax.random.key(0))


def unrolled(flow):
    """The same flow with each scale's steps in a Chain in place of a scan."""

    def unroll(scale):
        layers = []
        for layer in scale.layers:
            is_stack = isinstance(layer, fd.Repeat)
            layers.append(fd.Chain([layer[i] for i in range(len(layer))]) if is_stack else layer)
        return fd.Chain(layers)

    return flow.replace(bijector=fd.MultiScale([unroll(scale) for scale in flow.bijector.scales]))


def lower(flow, x):
    loss = lambda bijector, x: -flow.replace(bijector=bijector).log_prob(x).mean()
    return jax.jit(jax.value_and_grad(loss)).lower(flow.bijector, x)


def milliseconds(programs, rounds: int = 10):
    """The least time of each ``(function, arguments)``, taken in turns: a machine is never idle."""
    best = [float("inf")] * len(programs)
    for _ in range(rounds + 1):
        for i, (function, arguments) in enumerate(programs):
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            best[i] = min(best[i], 1e3 * (time.perf_counter() - start))
    return best


def small_images(args):
    return jax.random.uniform(jax.random.key(1), (args.batch, 16, 16, 3))


def scan(args) -> None:
    x = small_images(args)
    flow = build(x.shape[1:], args.shallow, args.channels)
    flows = [flow, unrolled(flow)]
    programs = [(lower(f, x).compile(), (f.bijector, x)) for f in flows]
    scanned, plain = milliseconds(programs)
    print(
        f"scan     {scanned:9.1f} ms, unrolled {plain:9.1f} ms, ratio {scanned / plain:5.2f} (1.3)"
    )


def compilation(args) -> None:
    x = small_images(args)
    seconds = []
    for steps in (args.shallow, args.deep):
        flow = build(x.shape[1:], steps, args.channels)
        times = []
        for _ in range(3):
            jax.clear_caches()
            start = time.process_time()
            lower(flow, x).compile()
            times.append(time.process_time() - start)
        seconds.append(min(times))
    shallow, deep = seconds
    print(f"compile  {shallow:9.2f} s, deep {deep:14.2f} s, ratio {deep / shallow:5.2f} (1.5)")


def memory(args) -> None:
    x = small_images(args)
    programs, sizes = {}, {}
    for kind in ("store", "checkpoint", "invert"):
        for steps in (args.shallow, args.deep):
            flow = build(x.shape[1:], steps, args.channels, kind)
            compiled = lower(flow, x).compile()
            programs[kind] = (compiled, (flow.bijector, x))
            sizes[kind, steps] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    times = dict(zip(programs, milliseconds(list(programs.values())), strict=True))
    for kind in programs:
        shallow, deep = sizes[kind, args.shallow], sizes[kind, args.deep]
        limits = ("(1.2)", "(1.6)") if kind == "invert" else ("     ", "")
        print(
            f"memory   {kind:10s} {shallow:8.1f} MiB, deep {deep:8.1f} MiB, ratio "
            f"{deep / shallow:5.2f} {limits[0]}; {times[kind]:8.1f} ms, of store "
            f"{times[kind] / times['store']:5.2f} {limits[1]}"
        )


def train(args) -> None:
    shape, steps, channels, scales = (32, 32, 3), 8, 128, 3
    flow = build(shape, steps, channels, scales=scales)
    x = jax.random.uniform(jax.random.key(1), (args.batch, *shape))
    optimizer = optax.adam(1e-3)

    def step(carry, _):
        bijector, state = carry
        loss = lambda bijector: -flow.replace(bijector=bijector).log_prob(x).mean()
        value, gradient = jax.value_and_grad(loss)(bijector)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(bijector, updates), state), value

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=STEPS_PER_CALL))
    programs = [(run, ((flow.bijector, optimizer.init(flow.bijector)),))]
    size = f"{steps} steps, {scales} scales, width {channels}, 32x32x3, batch {args.batch}"
    try:
        import glow_normflows
        import torch
    except ImportError:
        print("train    no comparison: normflows is not installed")
    else:
        model = glow_normflows.build(shape, steps, channels, scales)
        adam = torch.optim.Adam(model.parameters(), 1e-3)
        images = torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())

        def run_theirs():
            for _ in range(STEPS_PER_CALL):
                adam.zero_grad()
                (-glow_normflows.log_prob(model, images).mean()).backward()
                adam.step()

        programs.append((run_theirs, ()))
    ours, *theirs = (least / STEPS_PER_CALL for least in milliseconds(programs, rounds=5))
    line = f"train    {ours:9.1f} ms"
    for other in theirs:
        line += f", normflows {other:8.1f} ms, ratio {ours / other:5.2f} (1.0)"
    print(f"{line}; {size}")


PARTS = {"scan": scan, "compile": compilation, "memory": memory, "train": train}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--shallow", type=int, default=4)
    parser.add_argument("--deep", type=int, default=32)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    print(f"jax {jax.__version__} on {jax.default_backend()}; limits in brackets")
    for part in args.parts:
        PARTS[part](args)


if __name__ == "__main__":
    main()
