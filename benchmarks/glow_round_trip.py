"""How exactly a trained Glow gives images back: from image to latents to image, single precision.

    python benchmarks/glow_round_trip.py [--images mnist] [--scale sigmoid] [--data FOLDER] [...]

Trains 3 scales of 32 steps on 8x8 colour patches, or on MNIST cropped to 24x24, and takes held-out
images there and back. An image's error is that of its worst pixel, in grey levels of 256: below one
half, an image of levels (`from_uint8`, `to_uint8`) comes back exactly. Printed are quantiles over
images, and how many images of levels come back exactly.

The images are read from `--data`, FLOWDISTS_DATA or ../shared/data.
"""

import argparse
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import flowdists as fd

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BATCH = 250
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)


def read(args) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out images, uint8, ``(n, H, W, C)``."""
    folder = Path(args.data) / "images"
    if args.images == "mnist":
        with np.load(folder / "mnist.npz") as file:
            return tuple(file[name][:, 2:26, 2:26, None] for name in ("x_train", "x_test"))
    with np.load(folder / "bsds_rgb16.npz") as file:
        return tuple(file[name][:, :8, :8] for name in ("train", "test"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--images", choices=("bsds", "mnist"), default="bsds")
    add("--data", default=os.environ.get("FLOWDISTS_DATA", DEFAULT_DATA))
    add("--scale", default="tanh", help="how the couplings' log-scales are bounded")
    add("--channels", type=int, default=32, help="width of the networks")
    add("--epochs", type=int, default=3)
    add("--batch-size", type=int, default=64)
    add("--held-out", type=int, default=5000, help="how many of the test images")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    train, test = read(args)
    flow = fd.Glow(
        jax.random.key(args.seed),
        train.shape[1:],
        hidden_channels=args.channels,
        scale=args.scale,
    )
    flow, history = fd.fit(
        jax.random.key(args.seed + 1),
        flow,
        train,
        validation=test[:BATCH],
        transform=fd.dequantize,
        batch_size=args.batch_size,
        max_epochs=args.epochs,
    )
    bits = fd.bits_per_dim(-history.validation[history.best_epoch], train.shape[1:])
    print(f"{args.images}, scale={args.scale}: {bits:.3f} bits/dim held out")

    # There and back are two programs, as they are for users.
    there = jax.jit(lambda layer, x: layer.inverse(x))
    back = jax.jit(lambda layer, z: layer.forward(z))
    errors, num_exact = [], 0
    levels = test[: args.held_out]
    for i in range(0, len(levels), BATCH):
        part = levels[i : i + BATCH]
        x = fd.dequantize(jax.random.key(i), part)
        y = back(flow.bijector, there(flow.bijector, x))
        errors.append(256 * jnp.abs(y - x).max((1, 2, 3)))
        z = there(flow.bijector, fd.images.from_uint8(part))
        num_exact += (fd.to_uint8(back(flow.bijector, z)) == part).all((1, 2, 3)).sum()
    print("quantile", *(f"{100 * q:7.1f} %" for q in QUANTILES))
    print("error   ", *(f"{q:9.1e}" for q in np.quantile(np.concatenate(errors), QUANTILES)))
    print(f"exact, as levels: {num_exact} of {len(levels)} images")


if __name__ == "__main__":
    main()
