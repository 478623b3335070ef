"""Bits per dimension of natural image patches, 16x16 in colour and 8 bits: Glow and a Gaussian.

    python benchmarks/glow_bsds.py [--epochs 40] [--channels 64] [--data FOLDER] [...]

Glow is trained by `flowdists.fit` with uniform noise that is drawn anew for every minibatch; the
validation patches choose the epoch, and the test patches are scored once. The Gaussian has the mean
and the full covariance of the dequantized training patches, and scores the same noisy test patches.
Printed are means and two standard errors over patches, which are not independent within one of the
photographs, and the seconds that each took.

The patches are read from `--data`, FLOWDISTS_DATA or ../shared/data, from `images/bsds_rgb16.npz`.
"""

import argparse
import os
import time
from pathlib import Path

import jax
import numpy as np
from scipy.stats import multivariate_normal

import flowdists as fd

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
EVALUATION_BATCH = 250


def report(name: str, log_prob: np.ndarray, shape, start: float) -> None:
    bits = np.asarray(fd.bits_per_dim(log_prob, shape))
    error = 2 * bits.std() / np.sqrt(len(bits))
    seconds = time.perf_counter() - start
    print(f"{name:9s} {bits.mean():.4f} ({error:.4f}) bits/dim, {seconds:.0f} s", flush=True)


def gaussian(train: np.ndarray, x: np.ndarray) -> np.ndarray:
    flat = train.reshape(len(train), -1).astype(np.float64)
    density = multivariate_normal(flat.mean(0), np.cov(flat.T))
    return density.logpdf(x.reshape(len(x), -1).astype(np.float64))


def glow(args, train: np.ndarray, val: np.ndarray, x: np.ndarray) -> np.ndarray:
    flow = fd.Glow(
        jax.random.key(args.seed),
        train.shape[1:],
        num_scales=args.scales,
        steps_per_scale=args.steps,
        hidden_channels=args.channels,
    )
    flow, history = fd.fit(
        jax.random.key(args.seed + 1),
        flow,
        train,
        validation=val,
        transform=fd.dequantize,
        batch_size=args.batch_size,
        max_epochs=args.epochs,
        learning_rate=args.learning_rate,
    )
    print(f"{len(history.train)} epochs, the best is {history.best_epoch} (from 0)")
    score = jax.jit(lambda x: flow.log_prob(x))
    return np.concatenate([score(part) for part in np.split(x, len(x) // EVALUATION_BATCH)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data", default=os.environ.get("FLOWDISTS_DATA", DEFAULT_DATA))
    add("--epochs", type=int, default=40)
    add("--scales", type=int, default=3)
    add("--steps", type=int, default=8, help="steps per scale")
    add("--channels", type=int, default=64, help="width of the networks")
    add("--batch-size", type=int, default=64)
    add("--learning-rate", type=float, default=1e-3)
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    with np.load(Path(args.data) / "images" / "bsds_rgb16.npz") as file:
        train, val, test = (file[part] for part in ("train", "val", "test"))
    print(f"{len(train)} patches of {train.shape[1:]}, {len(test)} to test")
    x = np.asarray(fd.dequantize(jax.random.key(2), test))

    start = time.perf_counter()
    noisy = np.asarray(fd.dequantize(jax.random.key(3), train))
    report("Gaussian", gaussian(noisy, x), x.shape[1:], start)
    start = time.perf_counter()
    report("Glow", glow(args, train, val, x), x.shape[1:], start)


if __name__ == "__main__":
    main()
