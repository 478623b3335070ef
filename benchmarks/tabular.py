"""Held-out log-likelihood of real tables, with one recipe and no tuning for each table.

    python benchmarks/tabular.py [ccpp magic protein] [--data FOLDER] [--epochs 60] [--seed 0]

Prints mean log-likelihoods in nats on the validation set, which picks the best of 60 epochs, and on
the test set with two standard errors, beside a Gaussian with full covariance and a mixture of 20
Gaussians, and the time that each fit took. `--activation` and `--bound` are NSF's.
"""

import argparse
import functools
import os
import time
from pathlib import Path

import jax
import numpy as np
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

import flowdists as fd

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RECIPES = {
    "NSF": fd.NSF,
    "NSF-AR": functools.partial(fd.NSF, autoregressive=True),
    "RealNVP": fd.RealNVP,
    "Glow1D": fd.Glow1D,
    "MAF": fd.MAF,
}


def report(name: str, log_prob, val: np.ndarray, test: np.ndarray, start: float) -> None:
    seconds = time.perf_counter() - start
    scores = np.asarray(log_prob(test))
    error = 2 * scores.std() / np.sqrt(len(scores))
    print(
        f"  {name:22s} validation {np.mean(log_prob(val)):8.3f}   "
        f"test {scores.mean():8.3f} ({error:.2f})   {seconds:6.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="*", default=["ccpp", "magic", "protein"])
    parser.add_argument("--data", default=os.environ.get("FLOWDISTS_DATA", DEFAULT_DATA))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipes", nargs="*", default=["NSF"], choices=RECIPES)
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--bound", type=float, default=3.0)
    parser.add_argument("--no-baselines", action="store_true")
    args = parser.parse_args()
    for table in args.tables:
        with np.load(Path(args.data) / "tabular" / f"{table}.npz") as file:
            train, val, test = (file[part].astype(np.float32) for part in ("train", "val", "test"))
        print(f"{table}: {train.shape[0]} rows, {train.shape[1]} columns")
        if not args.no_baselines:
            start = time.perf_counter()
            gaussian = multivariate_normal(train.mean(0), np.cov(train.T))
            report("Gaussian", gaussian.logpdf, val, test, start)
            start = time.perf_counter()
            mixture = GaussianMixture(20, random_state=args.seed, reg_covar=1e-5).fit(train)
            report("mixture of 20", mixture.score_samples, val, test, start)
        for name in args.recipes:
            start = time.perf_counter()
            init_key, fit_key = jax.random.split(jax.random.key(args.seed))
            options = {"bound": args.bound} if name.startswith("NSF") else {}
            flow = RECIPES[name](init_key, train.shape[1:], activation=args.activation, **options)
            flow, _ = fd.fit(fit_key, flow, train, validation=val, max_epochs=args.epochs)
            report(name, jax.jit(flow.log_prob), val, test, start)


if __name__ == "__main__":
    main()
