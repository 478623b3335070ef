"""AutoFlow against reference posteriors of posteriordb, with one default for all of them.

    python benchmarks/posteriordb.py [NAME ...] [--data FOLDER] [--seed 0]

Trains `AutoFlow(model)` by `fit_guide(key, guide, data)`. Prints for each posterior the largest
deviation of a marginal mean, in reference standard deviations; of a marginal standard deviation, in
parts; the Pareto k-hat; the ELBO; and the time, compilation included.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

import flowdists as fd

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NUM_DRAWS = 40_000


def eight_schools_centered(J, y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", J):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_noncentered(J, y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", J):
        standardized = numpyro.sample("theta_trans", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * standardized)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def kidscore_momiq(kid_score, mom_iq, **_):
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), (2,)))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("kid_score", dist.Normal(beta[0] + beta[1] * mom_iq, sigma), obs=kid_score)


def ar_k(K, T, y):
    alpha = numpyro.sample("alpha", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([K]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    lags = jnp.stack([y[K - k : T - k] for k in range(1, K + 1)], axis=-1)
    numpyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y[K:])


MODELS: dict[str, Callable[..., Any]] = {
    "eight_schools_noncentered": eight_schools_noncentered,
    "kidscore_momiq": kidscore_momiq,
    "arK": ar_k,
    "eight_schools_centered": eight_schools_centered,
}


class Comparison(NamedTuple):
    """Largest deviations from the reference, and what the guide says of itself."""

    mean: float
    deviation: float
    khat: float
    elbo: float
    seconds: float


def read(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The model's arguments, and reference draws by name, ``(draws, *shape)``."""
    with np.load(folder / "posteriordb" / f"{name}.npz") as file:
        arguments = json.loads(str(file["data_json"]))
        draws = file["draws"].reshape(-1, file["draws"].shape[-1])
        names = [str(n) for n in file["param_names"]]
    arguments = {
        k: np.asarray(v, np.float32) if isinstance(v, list) else v for k, v in arguments.items()
    }
    reference = {}
    for variable in dict.fromkeys(n.split("[")[0] for n in names):
        columns = [i for i, n in enumerate(names) if n.split("[")[0] == variable]
        reference[variable] = (
            draws[:, columns] if "[" in names[columns[0]] else draws[:, columns[0]]
        )
    return arguments, reference


def compare(folder: Path, name: str, seed: int = 0) -> Comparison:
    """Train the default guide on one posterior and compare its draws with the reference."""
    model, (arguments, reference) = MODELS[name], read(folder, name)
    keys = jax.random.split(jax.random.key(seed), 3)
    start = time.perf_counter()
    guide = fd.AutoFlow(model)
    params, _ = fd.fit_guide(keys[0], guide, progress=False, **arguments)
    seconds = time.perf_counter() - start
    draws = guide.sample_posterior(keys[1], params, sample_shape=(NUM_DRAWS,))
    means, deviations = [], []
    for variable, expected in reference.items():
        given = np.asarray(draws[variable], np.float64)
        scale = expected.std(0)
        means.append(np.max(np.abs(given.mean(0) - expected.mean(0)) / scale))
        deviations.append(np.max(np.abs(given.std(0) / scale - 1)))
    result = fd.importance_sampling(
        keys[2], model, guide, params, num_samples=NUM_DRAWS, **arguments
    )
    return Comparison(max(means), max(deviations), result.khat, result.elbo, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(MODELS), metavar="NAME")
    parser.add_argument("--data", default=os.environ.get("FLOWDISTS_DATA", DEFAULT_DATA))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.names:
        result = compare(Path(args.data), name, args.seed)
        print(
            f"{name:26s} mean {result.mean:5.3f}   deviation {result.deviation:6.1%}   "
            f"k-hat {result.khat:5.2f}   ELBO {result.elbo:9.3f}   {result.seconds:5.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
