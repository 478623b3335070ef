"""A variational autoencoder whose posterior and prior are flows, against Gaussian ones.

    python examples/vae.py [--data FOLDER] [--steps N] [--latent N] [--output FOLDER]

Binarized MNIST from FOLDER/images/mnist.npz, or scikit-learn's digits where that is missing. Prints
the ELBO of held-out images, in nats per image, for a Gaussian posterior and prior, a flow
posterior, and a flow posterior and prior; draws images from the latter's prior in `vae.png`.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from sklearn.datasets import load_digits

import flowdists as fd

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BATCH_SIZE, HIDDEN = 128, 256
FLOW = {"num_layers": 4, "hidden_sizes": (64, 64)}


def load(folder: Path) -> tuple[jax.Array, jax.Array]:
    """Training and test images, flattened and binarized: each pixel is drawn once."""
    path = folder / "images" / "mnist.npz"
    if path.exists():
        with np.load(path) as file:
            parts = [file[name] / 255.0 for name in ("x_train", "x_test")]
    else:
        print(f"no {path}: scikit-learn's digits instead")
        parts = np.split(load_digits().images / 16.0, [1500])
    draws = np.random.default_rng(0)
    train, test = (
        jnp.asarray(draws.random(part.shape) < part, jnp.float32).reshape(len(part), -1)
        for part in parts
    )
    return train, test[draws.permutation(len(test))[:2000]]


def network(key: jax.Array, in_size: int, out_size: int) -> fd.MLP:
    return fd.MLP(key, in_size, out_size, hidden_sizes=(HIDDEN, HIDDEN), output_scale=1.0)


def decoder_of(latent: int, num_pixels: int) -> fd.MLP:
    def make(key: jax.Array) -> fd.MLP:
        return network(key, latent, num_pixels)

    return fd.flow_module("decoder", make)


def prior_of(latent: int) -> fd.Flow:
    return fd.flow_module("prior", fd.RealNVP, event_shape=(latent,), **FLOW)


def make_model(latent: int, flow_prior: bool) -> Callable[..., Any]:
    def model(images: jax.Array, batch_size: int | None = None) -> None:
        num_images, num_pixels = images.shape
        decoder = decoder_of(latent, num_pixels)
        prior = prior_of(latent) if flow_prior else fd.StandardNormal((latent,))
        with numpyro.plate("images", num_images, subsample_size=batch_size) as batch:
            logits = decoder(numpyro.sample("z", prior))
            pixels = dist.Bernoulli(logits=logits).to_event(1)
            numpyro.sample("x", pixels, obs=images[batch])

    return model


def make_gaussian_guide(latent: int) -> Callable[..., Any]:
    def guide(images: jax.Array, batch_size: int | None = None) -> None:
        num_images, num_pixels = images.shape
        encoder = fd.flow_module("encoder", lambda key: network(key, num_pixels, 2 * latent))
        with numpyro.plate("images", num_images, subsample_size=batch_size) as batch:
            loc, log_scale = jnp.split(encoder(images[batch]), 2, axis=-1)
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return guide


def make_flow_guide(latent: int, model: Callable[..., Any], num_pixels: int) -> Any:
    encoder = network(jax.random.key(5), num_pixels, 4 * latent)
    return fd.AutoAmortizedFlow(model, encoder, flow=fd.IAF, flow_options=FLOW, init_scale=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=os.environ.get("FLOWDISTS_DATA", DEFAULT_DATA))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--latent", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path())
    args = parser.parse_args()

    train, test = load(Path(args.data))
    print(f"{len(train)} images of {train.shape[1]} pixels, {len(test)} held out")
    gaussian, flow = (make_model(args.latent, flow_prior) for flow_prior in (False, True))
    pairs = {
        "Gaussian posterior and prior": (gaussian, make_gaussian_guide(args.latent)),
        "flow posterior": (gaussian, make_flow_guide(args.latent, gaussian, train.shape[1])),
        "flow posterior and prior": (flow, make_flow_guide(args.latent, flow, train.shape[1])),
    }
    for name, (model, guide) in pairs.items():
        start = time.perf_counter()
        params, _ = fd.fit_guide(
            jax.random.key(0),
            guide,
            train,
            BATCH_SIZE,
            model=model,
            loss=numpyro.infer.Trace_ELBO(),
            num_steps=args.steps,
            learning_rate=2e-3,
            clip_norm=None,
        )
        loss = jax.jit(
            lambda key, model=model, guide=guide, params=params: numpyro.infer.Trace_ELBO(
                num_particles=10, vectorize_particles=False
            ).loss(key, params, model, guide, test)
        )
        elbo = -float(loss(jax.random.key(1))) / len(test)
        print(
            f"{name:30s} ELBO {elbo:8.2f} nats   {time.perf_counter() - start:6.1f} s", flush=True
        )

    # With the trained parameters in place of the sites, the modules are the trained ones.
    with numpyro.handlers.substitute(data=params):
        prior, decoder = prior_of(args.latent), decoder_of(args.latent, train.shape[1])
    probabilities = jax.nn.sigmoid(decoder(prior.sample(jax.random.key(2), (64,))))
    side = int(np.sqrt(train.shape[1]))
    grid = probabilities.reshape(8, 8, side, side).transpose(0, 2, 1, 3).reshape(8 * side, -1)
    plt.imsave(args.output / "vae.png", grid, cmap="gray")


if __name__ == "__main__":
    main()
