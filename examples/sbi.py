"""Simulation-based inference: a model that can be simulated, whose likelihood is out of reach.

    python examples/sbi.py [--simulations N] [--epochs N] [--tests N] [--output FOLDER]

The Ricker model of ecology (Wood 2010): a population grows, overshoots and crashes, driven by noise
of its own, and all that is seen are Poisson counts. The likelihood is an integral over 40 years of
noise. `flowdists.npe` learns the posterior of the three parameters from draws of the NumPyro model
alone, for all data at once. Two checks of what it learned:

* calibration: ranks of true parameters among posterior draws (simulation-based calibration), and
  the expected coverage of highest-density regions, drawn by ArviZ in `sbi_calibration.png`. With
  the default number of simulations the posterior is a little too narrow; more simulations help;
* one data set: the posterior against the parameters that made it, and a posterior predictive
  check, in `sbi_posterior.png`.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import flowdists as fd
from flowdists.diagnostics import expected_coverage

YEARS = 40
PARAMETERS = ("log_growth", "noise", "detection")
TRUTH = {"log_growth": 3.8, "noise": 0.3, "detection": 10.0}


def ricker():
    """Counts of a population: N' = growth N exp(-N + noise e), y ~ Poisson(detection N)."""
    log_growth = numpyro.sample("log_growth", dist.Uniform(2.0, 5.0))
    noise = numpyro.sample("noise", dist.Uniform(0.05, 0.8))
    detection = numpyro.sample("detection", dist.Uniform(4.0, 20.0))
    shocks = numpyro.sample("shocks", dist.Normal(0, 1).expand([YEARS]).to_event(1))

    def year(log_size, shock):
        log_size = log_size + log_growth - jnp.exp(log_size) + noise * shock
        return log_size, log_size

    _, log_sizes = jax.lax.scan(year, 0.0, shocks)
    counts = numpyro.sample("counts", dist.Poisson(detection * jnp.exp(log_sizes)).to_event(1))
    # What the network sees: counts span orders of magnitude.
    numpyro.sample("y", dist.Delta(jnp.log1p(1.0 * counts)).to_event(1))


def plot_calibration(levels: dict[str, np.ndarray], path: Path) -> None:
    """The distribution function of what should be uniform, minus that of the uniform."""
    if az.__version__.startswith("0."):
        figure, axes = plt.subplots(1, len(levels), figsize=(14, 3), layout="constrained")
        for axis, (name, values) in zip(axes, levels.items(), strict=True):
            uniform = lambda x: np.clip(x, 0.0, 1.0)
            az.plot_ecdf(values, cdf=uniform, difference=True, confidence_bands=True, ax=axis)
            axis.set(title=name)
    else:
        data = az.from_dict({"prior_sbc": {name: v[None] for name, v in levels.items()}})
        az.plot_ecdf_pit(data, figure_kwargs={"figsize": (14, 3)})
        figure = plt.gcf()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def plot_posterior(draws, data, replicated, path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for axis, (a, b) in zip(axes, (PARAMETERS[:2], PARAMETERS[::2]), strict=False):
        axis.plot(draws[a], draws[b], ".", markersize=1.5, alpha=0.5)
        axis.plot(TRUTH[a], TRUTH[b], "k+", markersize=14, markeredgewidth=2)
        axis.set(xlabel=a, ylabel=b, title="posterior, and the truth (+)")
    low, high = np.quantile(replicated, [0.05, 0.95], axis=0)
    axes[2].fill_between(np.arange(YEARS), low, high, alpha=0.4, label="90 % of replications")
    axes[2].plot(np.arange(YEARS), data["y"], "k.-", linewidth=0.5, label="data")
    axes[2].set(xlabel="year", ylabel="log(1 + count)", title="posterior predictive")
    axes[2].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--simulations", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--tests", type=int, default=300, help="simulations to test calibration")
    parser.add_argument("--output", type=Path, default=Path())
    args = parser.parse_args()

    start = time.perf_counter()
    encoder = fd.MLP(jax.random.key(0), YEARS, 16, hidden_sizes=(128, 128), output_scale=1.0)
    posterior, history = fd.npe(
        jax.random.key(1),
        ricker,
        observed="y",
        latents=PARAMETERS,
        num_simulations=args.simulations,
        embedding=encoder,
        flow_options={"num_layers": 4, "hidden_sizes": (64, 64)},
        fit_options={"max_epochs": args.epochs},
    )
    print(
        f"{args.simulations} simulations, {len(history.train)} epochs, "
        f"{time.perf_counter() - start:.0f} s; held-out loss {history.validation.min():.3f} nats"
    )

    num_draws = 199
    simulator = fd.Simulator(ricker, observed="y", latents=PARAMETERS)
    theta, y = simulator.draw(jax.random.key(2), args.tests)
    ranks = fd.sbc_ranks(
        jax.random.key(3),
        ricker,
        lambda key, data: posterior.sample(key, data, (num_draws,)),
        observed="y",
        latents=PARAMETERS,
        num_simulations=args.tests,
        num_draws=num_draws,
        vectorized=True,
    )
    coverage = expected_coverage(jax.random.key(4), posterior.flow, theta, y, num_draws=num_draws)
    print("ranks of true parameters, p-value of being uniform:")
    for name, p_value in fd.uniformity_pvalues(ranks, num_draws).items():
        print(f"  {name:12s} {float(p_value):.3f}")
    for nominal in (0.5, 0.9):
        print(f"highest-density regions of {nominal:.0%}: cover {coverage.coverage(nominal):.1%}")
    levels = {name: (values + 0.5) / (num_draws + 1) for name, values in ranks.items()}
    levels["highest density"] = np.asarray(coverage.credibility)
    plot_calibration(levels, args.output / "sbi_calibration.png")

    vector = simulator.latents.pack("truth", {k: jnp.array(v) for k, v in TRUTH.items()})
    data = {"y": simulator.draw_data(jax.random.key(5), vector[None])[0]}
    draws = posterior.sample(jax.random.key(6), data, (4000,))
    for name in PARAMETERS:
        low, high = np.quantile(draws[name], [0.05, 0.95])
        print(f"{name:12s} true {TRUTH[name]:5.2f}, posterior 90 %: {low:5.2f} to {high:5.2f}")
    packed = simulator.latents.pack("draws", draws)
    replicated = np.asarray(simulator.draw_data(jax.random.key(7), packed))
    low, high = np.quantile(replicated, [0.05, 0.95], axis=0)
    inside = np.mean((data["y"] >= low) & (data["y"] <= high))
    print(f"posterior predictive: {inside:.0%} of the years within the 90 % of replications")
    plot_posterior(draws, data, replicated, args.output / "sbi_posterior.png")


if __name__ == "__main__":
    main()
