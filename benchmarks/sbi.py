"""Neural posterior estimation on two tasks of the benchmark of Lueckmann et al. (2021).

    python benchmarks/sbi.py [--simulations 1000 10000 100000] [--tasks two_moons slcp]

One default for both tasks and all budgets: ``flowdists.npe`` with nothing but the number of
simulations. For each of the benchmark's observations 1 to 5, 10,000 draws of the learned posterior
are compared with the reference posterior by the classifier two-sample test (0.5 is perfect, 1 the
worst); the mean is printed beside the limit it is held to and the figure of neural posterior
estimation in the paper. Seconds are those of simulation and fit, compilation included.

The tasks are written from the paper. Observations and reference draws are read from the data
folder (``sbibm/*.npz`` in ../shared/data, or in $FLOWDISTS_DATA).
"""

import argparse
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import flowdists as fd
from flowdists.diagnostics import c2st

LIMITS = {"two_moons": {10_000: 0.54, 100_000: 0.515}, "slcp": {10_000: 0.85, 100_000: 0.74}}
PAPER = {
    "two_moons": {1_000: 0.725, 10_000: 0.606, 100_000: 0.542},
    "slcp": {1_000: 0.975, 10_000: 0.901, 100_000: 0.831},
}


def two_moons():
    """A crescent whose place depends on the parameters, with two posterior modes."""
    theta = numpyro.sample("theta", dist.Uniform(-1.0, 1.0).expand([2]).to_event(1))
    angle = numpyro.sample("angle", dist.Uniform(-jnp.pi / 2, jnp.pi / 2))
    radius = numpyro.sample("radius", dist.Normal(0.1, 0.01))
    crescent = jnp.stack([radius * jnp.cos(angle) + 0.25, radius * jnp.sin(angle)])
    shift = jnp.stack([-jnp.abs(theta[0] + theta[1]), theta[1] - theta[0]]) / jnp.sqrt(2.0)
    numpyro.sample("x", dist.Delta(crescent + shift).to_event(1))


def slcp():
    """Simple likelihood, complex posterior: four points from a Gaussian of five parameters."""
    theta = numpyro.sample("theta", dist.Uniform(-3.0, 3.0).expand([5]).to_event(1))
    first, second = theta[2] ** 2, theta[3] ** 2
    correlation = jnp.tanh(theta[4])
    scale_tril = jnp.array([[1.0, 0.0], [0.0, 0.0]]) * first + jnp.stack(
        [jnp.zeros(2), second * jnp.stack([correlation, jnp.sqrt(1 - correlation**2)])]
    )
    with numpyro.plate("points", 4):
        numpyro.sample("x", dist.MultivariateNormal(theta[:2], scale_tril=scale_tril))


MODELS = {"two_moons": two_moons, "slcp": slcp}


def read(task: str) -> tuple[np.ndarray, np.ndarray]:
    folder = os.environ.get("FLOWDISTS_DATA")
    data = Path(folder) if folder else Path(__file__).parents[2] / "shared" / "data"
    path = data / "sbibm" / f"{task}.npz"
    if not path.exists():
        raise SystemExit(f"no data at {path}; set FLOWDISTS_DATA to where the data is")
    with np.load(path) as file:
        return file["observation"], file["reference_posterior"]


def learn(task: str, num_simulations: int, seed: int, progress: bool = False):
    posterior, _ = fd.npe(
        jax.random.key(seed),
        MODELS[task],
        observed="x",
        latents="theta",
        num_simulations=num_simulations,
        fit_options={"progress": progress},
    )
    return posterior


def scores(task: str, posterior, key) -> list[float]:
    observations, references = read(task)
    results = []
    for observation, reference in zip(observations, references, strict=True):
        key, draw_key, test_key = jax.random.split(key, 3)
        data = observation.reshape(posterior.contexts.shape)
        draws = posterior.sample(draw_key, data, (len(reference),))["theta"]
        if not (jnp.abs(draws) <= (1.0 if task == "two_moons" else 3.0)).all():
            raise AssertionError("a draw is outside of the prior")
        results.append(c2st(test_key, reference, draws))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--simulations", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--tasks", nargs="+", choices=sorted(MODELS), default=sorted(MODELS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", action="store_true")
    args = parser.parse_args()
    print("C2ST of neural posterior estimation: mean of 5 observations (and each of them)")
    for task in args.tasks:
        for count in args.simulations:
            start = time.perf_counter()
            posterior = learn(task, count, args.seed, args.progress)
            seconds = time.perf_counter() - start
            each = scores(task, posterior, jax.random.key(args.seed + 1))
            limit, paper = LIMITS[task].get(count), PAPER[task].get(count)
            print(
                f"{task:10s} {count:7d} simulations: {np.mean(each):.3f} "
                f"({', '.join(f'{value:.3f}' for value in each)}); "
                f"limit {limit or 'none'}, paper {paper or 'none'}; {seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
