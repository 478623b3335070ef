"""How exactly a trained Glow gives images back: from image to latents to image, single precision.

    python benchmarks/glow_round_trip.py [--images mnist] [--scale sigmoid] [--data FOLDER] [...]

Trains 3 scales of 32 steps on 8x8 colour patches, or on MNIST cropped to 24x24, and takes held-out
images there and back. An image's error is that of its worst pixel, in grey levels of 256. Printed
are quantiles over images, once as users see them, and once with latents that keep their second
float: the difference is what rounding the latents to single precision costs.

The images are read from `--data`, FLOWDISTS_DATA or ../shared/data.
"""

import argparse
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import flowdists as fd
from flowdists._compensated import compensated, rounded

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

    layer, errors = flow.bijector, {"single precision": [], "latents of two floats": []}
    there = jax.jit(lambda layer, x: layer.inverse(x))
    back = jax.jit(lambda layer, z: layer.forward(z))
    there_in_pairs = jax.jit(lambda layer, x: layer._to_latents(compensated(x), None)[0])
    back_in_pairs = jax.jit(lambda layer, latents: rounded(layer._to_image(latents, None)[0]))
    for i in range(0, min(args.held_out, len(test)), BATCH):
        x = fd.dequantize(jax.random.key(i), test[i : i + BATCH])
        returned = (
            back(layer, there(layer, x)),
            back_in_pairs(layer, there_in_pairs(layer, x)),
        )
        for part, y in zip(errors.values(), returned, strict=True):
            part.append(256 * jnp.abs(y - x).max((1, 2, 3)))
    print(" " * 22, *(f"{100 * q:7.1f} %" for q in QUANTILES))
    for name, parts in errors.items():
        print(f"{name:22s}", *(f"{q:9.1e}" for q in np.quantile(np.concatenate(parts), QUANTILES)))


if __name__ == "__main__":
    main()
