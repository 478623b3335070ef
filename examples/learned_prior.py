"""Fit a flow to draws from a previous study, and use it as the prior of a new one under NUTS.

    python examples/learned_prior.py [--epochs N] [--draws N] [--output FOLDER]

Study A measures a decaying signal and leaves posterior draws of amplitude, rate and noise: a curved
density, on a bounded support, that no standard family fits. Study B has a few noisy points of its
own. Its posterior with the flow as prior is compared with that of both studies analysed together,
which is what a prior should amount to, and with independent log-normal priors matched to the same
draws. Prints means and standard deviations; draws priors and posteriors in `learned_prior.png`.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

import flowdists as fd

NAMES = ("amplitude", "rate", "noise")
PRIOR = dist.Independent(dist.LogNormal(jnp.zeros(3), jnp.array([1.0, 1.0, 1.0])), 1)
Study = tuple[jax.Array, jax.Array]


def observe(theta: jax.Array, name: str, study: Study) -> None:
    times, values = study
    amplitude, rate, noise = jnp.moveaxis(theta, -1, 0)
    numpyro.sample(name, dist.Normal(amplitude * jnp.exp(-rate * times), noise), obs=values)


def model(prior: dist.Distribution, **studies: Study) -> None:
    """Any studies, one prior over the three parameters."""
    theta = numpyro.sample("theta", prior)
    for name, study in studies.items():
        observe(theta, name, study)


def simulate(key: jax.Array, times: jax.Array) -> Study:
    noise = 0.3 * jax.random.normal(key, times.shape)
    return times, 2.0 * jnp.exp(-0.8 * times) + noise


def nuts(key: jax.Array, num_draws: int, prior: dist.Distribution, **studies: Study) -> np.ndarray:
    kernel = numpyro.infer.NUTS(model, target_accept_prob=0.9)
    mcmc = numpyro.infer.MCMC(kernel, num_warmup=500, num_samples=num_draws, progress_bar=False)
    mcmc.run(key, prior, extra_fields=("diverging",), **studies)
    divergences = int(mcmc.get_extra_fields()["diverging"].sum())
    if divergences:
        print(f"  ({divergences} divergences)")
    return np.asarray(mcmc.get_samples()["theta"])


def report(name: str, draws: np.ndarray) -> None:
    parts = (f"{m:6.3f} ± {s:.3f}" for m, s in zip(draws.mean(0), draws.std(0), strict=True))
    print(f"{name:34s}" + "   ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=Path())
    args = parser.parse_args()
    keys = iter(jax.random.split(jax.random.key(0), 9))

    study_a = simulate(next(keys), jnp.linspace(0.5, 2.0, 6))
    study_b = simulate(next(keys), jnp.linspace(0.0, 4.0, 5))
    print(f"{'':34s}" + "   ".join(f"{name:>14s}" for name in NAMES))
    draws_a = nuts(next(keys), args.draws, PRIOR, a=study_a)
    report("posterior of study A", draws_a)

    # All three parameters are positive: the flow ends in a map onto that support.
    unbounded = fd.NSF(next(keys), event_shape=(3,))
    to_positive = fd.to_support(constraints.independent(constraints.positive, 1))
    flow = fd.Flow(unbounded.base, fd.Chain([unbounded.bijector, to_positive]))
    flow, _ = fd.fit(next(keys), flow, draws_a, max_epochs=args.epochs)
    samples = np.asarray(flow.sample(next(keys), (args.draws,)))
    report("flow fitted to its draws", samples)

    logs = np.log(draws_a)
    log_normal = dist.LogNormal(logs.mean(0), logs.std(0)).to_event(1)
    posteriors = {
        "A and B together": nuts(next(keys), args.draws, PRIOR, a=study_a, b=study_b),
        "B, with the flow as prior": nuts(next(keys), args.draws, flow, b=study_b),
        "B, with log-normals as prior": nuts(next(keys), args.draws, log_normal, b=study_b),
    }
    for name, draws in posteriors.items():
        report(name, draws)

    panels = {"posterior of study A": draws_a, "flow fitted to its draws": samples, **posteriors}
    figure, axes = plt.subplots(
        1, 5, figsize=(16, 3.5), sharex=True, sharey=True, layout="constrained"
    )
    for axis, (name, draws) in zip(axes, panels.items(), strict=True):
        axis.plot(draws[:, 0], draws[:, 1], ".", markersize=1)
        axis.set(title=name, xlabel=NAMES[0], xlim=(0, 6), ylim=(0, 3))
    axes[0].set_ylabel(NAMES[1])
    figure.savefig(args.output / "learned_prior.png", dpi=120)


if __name__ == "__main__":
    main()
