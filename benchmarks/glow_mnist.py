"""Bits per dimension of MNIST against training time: our Glow and that of normflows (PyTorch).

    python benchmarks/glow_mnist.py [--minutes 20] [--plot curves.png] [--data FOLDER] [...]

The two train one after the other, each for `--minutes` on all cores, and are scored on the same
held-out images with the same noise. The clock stands still during evaluation, and only then:
building, initialization from data and compilation count. Equal for both: 28x28 images with a margin
of zeros that makes them multiples of `2 ** scales`, 8 bits, uniform noise, the number of scales,
steps and channels, batches drawn at random, Adam with a linear warm-up and clipped gradients, the
images that ActNorm starts from, and that a moving average of the parameters is scored. The average
was added to both after held-out scores of ours without it had jumped; no other option was chosen by
them.

What differs. The priors of the latents that a scale sets aside: ours, as published, depend on the
latents that go on, while those of normflows have one mean and scale for each channel. That is an
advantage in bits per step; the rest is the number of steps in the time. Parameters of the networks
start at each library's own distribution, and each draws its own batches and noise in training.

MNIST is read from `--data`, FLOWDISTS_DATA or ../shared/data, from `images/mnist.npz`. Without
normflows there is one curve in place of two.
"""

import argparse
import functools
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flowdists as fd

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MARKS = (1, 2, 5, 10, 15, 20, 30, 45, 60)  # minutes at which curves have points
STEPS_PER_CALL, INIT_SIZE, EVALUATION_BATCH = 20, 512, 500


def read(args) -> tuple[np.ndarray, np.ndarray]:
    """Training images, and held-out ones with noise: uint8 and values, ``(n, H, W, 1)``."""
    with np.load(Path(args.data) / "images" / "mnist.npz") as file:
        images = [file["x_train"], file["x_test"][: args.held_out]]
    factor = 2**args.scales
    margins = [(-size % factor) for size in images[0].shape[1:]]
    margins = [(0, 0), *((margin // 2, margin - margin // 2) for margin in margins)]
    train, test = (np.pad(part, margins)[..., None] for part in images)
    return train, np.asarray(fd.dequantize(jax.random.key(1), test))


class Curve:
    """Held-out scores at given times of training, which the time of scoring is not part of."""

    def __init__(self, name: str, minutes: float, score) -> None:
        self.name, self.score = name, score
        self.marks = [60 * mark for mark in MARKS if mark < minutes] + [60 * minutes]
        self.points: list[tuple[float, float]] = []
        self.start = time.perf_counter()

    def goes_on(self, steps: int, *state) -> bool:
        """Score at the next mark, once it is reached; False at the last."""
        seconds = time.perf_counter() - self.start
        if seconds < self.marks[len(self.points)]:
            return True
        before = time.perf_counter()
        bits = self.score(*state)
        self.points.append((seconds, bits))
        print(f"{self.name:10s} {seconds:7.0f} s {steps:7d} steps {bits:8.4f} bits/dim", flush=True)
        if not np.isfinite(bits):
            raise SystemExit(f"{self.name}: diverged; try a lower --learning-rate")
        self.start += time.perf_counter() - before
        return len(self.points) < len(self.marks)


def train_ours(args, train: np.ndarray, held_out: np.ndarray) -> Curve:
    shape = train.shape[1:]

    @jax.jit
    def score_batch(flow, x):
        return fd.bits_per_dim(flow.log_prob(x), shape)

    def score(flow) -> float:
        batches = (held_out[i : i + EVALUATION_BATCH] for i in starts(held_out))
        return float(np.concatenate([score_batch(flow, batch) for batch in batches]).mean())

    curve = Curve("flowdists", args.minutes, score)
    pixels = jnp.asarray(train)
    schedule = optax.linear_schedule(0.0, args.learning_rate, args.warm_up)
    optimizer = optax.chain(optax.clip_by_global_norm(args.clip_norm), optax.adam(schedule))

    @jax.jit
    def build(key, first):
        flow_key, noise_key = jax.random.split(key)
        flow = fd.Glow(
            flow_key,
            shape,
            num_scales=args.scales,
            steps_per_scale=args.steps,
            hidden_channels=args.channels,
        )
        flow = flow.data_init(fd.dequantize(noise_key, first))
        return flow, optimizer.init(flow), flow

    def step(pixels, carry, key):
        flow, state, average = carry
        rows_key, noise_key = jax.random.split(key)
        rows = jax.random.randint(rows_key, (args.batch_size,), 0, len(pixels))
        x = fd.dequantize(noise_key, pixels[rows])
        loss = lambda flow: fd.bits_per_dim(flow.log_prob(x), shape).mean()
        updates, state = optimizer.update(jax.grad(loss)(flow), state)
        flow = optax.apply_updates(flow, updates)
        average = optax.incremental_update(flow, average, 1 - args.decay)
        return (flow, state, average), None

    @functools.partial(jax.jit, donate_argnums=0)
    def run(carry, key, pixels):
        keys = jax.random.split(key, STEPS_PER_CALL)
        return jax.lax.scan(functools.partial(step, pixels), carry, keys)[0]

    carry, steps = build(jax.random.key(args.seed), pixels[:INIT_SIZE]), 0
    print(f"flowdists  {sum(leaf.size for leaf in jax.tree.leaves(carry[0]))} parameters")
    while curve.goes_on(steps, carry[-1]):
        key = jax.random.fold_in(jax.random.key(args.seed + 1), steps)
        carry = jax.block_until_ready(run(carry, key, pixels))
        steps += STEPS_PER_CALL
    return curve


def train_theirs(args, train: np.ndarray, held_out: np.ndarray) -> Curve:
    import glow_normflows
    import torch

    torch.manual_seed(args.seed)
    shape = train.shape[1:]
    channels_first = lambda x: torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    bits = lambda model, x: 8 - glow_normflows.log_prob(model, x) / (np.prod(shape) * np.log(2))
    dequantize = lambda pixels: (pixels + torch.rand(pixels.shape)) / 256 - 0.5
    held_out = channels_first(held_out)

    @torch.no_grad()
    def score(model) -> float:
        batches = (held_out[i : i + EVALUATION_BATCH] for i in starts(held_out))
        return torch.cat([bits(model, batch) for batch in batches]).mean().item()

    curve = Curve("normflows", args.minutes, score)
    pixels = channels_first(train)
    model = glow_normflows.build(shape, args.steps, args.channels, args.scales)
    optimizer = torch.optim.Adam(model.parameters(), args.learning_rate)
    warm_up = lambda step: min(1.0, step / args.warm_up)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up)
    with torch.no_grad():
        bits(model, dequantize(pixels[:INIT_SIZE]))  # the first batch sets the ActNorms
    averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(args.decay)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=averaging)

    print(f"normflows  {sum(p.numel() for p in model.parameters())} parameters")
    steps = 0
    while curve.goes_on(steps, average.module):
        rows = torch.randint(len(pixels), (args.batch_size,))
        loss = bits(model, dequantize(pixels[rows])).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip_norm)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        steps += 1
    return curve


def starts(images) -> range:
    return range(0, len(images), EVALUATION_BATCH)


def plot(path: Path, curves: list[Curve]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for curve in curves:
        ax.plot(*np.array(curve.points).T / [[60], [1]], "o-", label=curve.name)
    ax.set(xlabel="minutes of training", ylabel="bits per dimension, held out", title="MNIST")
    ax.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, default=20.0, help="of training, for each of the two")
    add("--plot", type=Path, help="where to draw the curves, as a PNG")
    add("--data", default=os.environ.get("FLOWDISTS_DATA", DEFAULT_DATA))
    add("--held-out", type=int, default=10_000, help="how many of the test images")
    add("--scales", type=int, default=3)
    add("--steps", type=int, default=8, help="steps per scale")
    add("--channels", type=int, default=64, help="width of the networks")
    add("--batch-size", type=int, default=64)
    add("--learning-rate", type=float, default=1e-3)
    add("--warm-up", type=int, default=200, help="steps until the learning rate is reached")
    add("--clip-norm", type=float, default=5.0)
    add("--decay", type=float, default=0.995, help="of the average of the parameters")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    train, held_out = read(args)
    print(f"{len(train)} images of {train.shape[1:]}, {len(held_out)} held out")
    curves = [train_ours(args, train, held_out)]
    try:
        import normflows  # noqa: F401
    except ImportError:
        print("no comparison: normflows is not installed")
    else:
        curves.append(train_theirs(args, train, held_out))
        (ours, theirs) = (curve.points[-1][1] for curve in curves)
        print(
            f"at {args.minutes:g} min: {ours:.4f}, normflows {theirs:.4f} bits/dim (limit: below)"
        )
    if args.plot is not None:
        plot(args.plot, curves)


if __name__ == "__main__":
    main()
