"""Random intercepts and slopes of many groups, by an amortized guide on minibatches and by NUTS.

    python examples/hierarchical_regression.py [--groups N] [--steps N] [--draws N]

Counts, a few in each group, follow a Poisson regression whose intercept and slope differ from group
to group, as a correlated Gaussian of unknown mean, scales and correlation. The guide sees 50 groups
at a time. Prints both posteriors' means and standard deviations of the global variables, and how
well the groups' effects agree; then, for groups that the guide has never seen, simulated from the
population it found, how many of their effects are in its 90 % intervals.
"""

import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import flowdists as fd

BATCH_SIZE, MOST_COUNTS = 50, 8
TRUTH = {
    "mean": jnp.array([0.5, 0.4]),
    "scale": jnp.array([0.7, 0.4]),
    "correlation": jnp.array(-0.5),
}
Draws = dict[str, jax.Array]


class Groups(NamedTuple):
    """Observations of each group, ``(groups, most)``; where ``mask`` is False there is none."""

    x: jax.Array
    count: jax.Array
    mask: jax.Array


def factor_of(correlation: jax.Array) -> jax.Array:
    zero = jnp.zeros_like(correlation)
    rows = [zero + 1, zero, correlation, jnp.sqrt(1 - correlation**2)]
    return jnp.stack(rows, axis=-1).reshape(*correlation.shape, 2, 2)


def effects(z: jax.Array, mean: jax.Array, scale: jax.Array, factor: jax.Array) -> jax.Array:
    return mean + scale * jnp.einsum("...ij,...j->...i", factor, z)


def simulate(key: jax.Array, num_groups: int, population: Draws) -> tuple[Groups, jax.Array]:
    """Groups of 3 to 8 counts, and their effects; each group may have a population of its own."""
    keys = jax.random.split(key, 4)
    shape = (num_groups, MOST_COUNTS)
    z = jax.random.normal(keys[0], (num_groups, 2))
    factor = factor_of(population["correlation"])
    effect = effects(z, population["mean"], population["scale"], factor)
    x = jax.random.uniform(keys[1], shape, minval=-1.0, maxval=1.0)
    count = jax.random.poisson(keys[2], jnp.exp(effect[:, :1] + effect[:, 1:] * x))
    size = jax.random.randint(keys[3], (num_groups, 1), 3, MOST_COUNTS + 1)
    return Groups(x, count, jnp.arange(MOST_COUNTS) < size), effect


def model(groups: Groups, batch_size: int | None = None) -> None:
    mean = numpyro.sample("mean", dist.Normal(jnp.zeros(2), 2.0).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(jnp.ones(2)).to_event(1))
    factor = numpyro.sample("factor", dist.LKJCholesky(2, 2.0))
    numpyro.deterministic("correlation", factor[1, 0])
    with numpyro.plate("groups", len(groups.x), subsample_size=batch_size) as rows:
        x, count, mask = (part[rows] for part in groups)
        z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        effect = numpyro.deterministic("effect", effects(z, mean, scale, factor))
        rate = jnp.exp(effect[:, :1] + effect[:, 1:] * x)
        numpyro.sample("count", dist.Poisson(rate).mask(mask).to_event(1), obs=count)


def features(groups: Groups, batch_size: int | None = None) -> jax.Array:
    """What the encoder sees of a group: sums that nearly determine its likelihood, standardized."""
    x, count, mask = groups
    terms = jnp.stack([jnp.ones_like(x), x, x**2, count, count * x])
    sums = jnp.where(mask, terms, 0.0).sum(-1)
    return (sums.T - jnp.array([5.5, 0.0, 1.8, 11.0, 1.3])) / jnp.array([1.7, 1.3, 0.8, 9.0, 4.5])


def fit(key: jax.Array, groups: Groups, num_steps: int) -> tuple[fd.AutoAmortizedFlow, Draws]:
    encoder = fd.MLP(jax.random.key(1), 5, 8, hidden_sizes=(32, 32), output_scale=1.0)
    small = {"num_layers": 4, "hidden_sizes": (32,)}
    guide = fd.AutoAmortizedFlow(
        model,
        encoder,
        features=features,
        flow=fd.IAF,
        flow_options=small,
        global_flow=fd.IAF,
        global_options=small,
    )
    return guide, fd.fit_guide(key, guide, groups, BATCH_SIZE, num_steps=num_steps).params


def nuts(key: jax.Array, groups: Groups, num_draws: int) -> Draws:
    sampler = numpyro.infer.MCMC(
        numpyro.infer.NUTS(model), num_warmup=500, num_samples=num_draws, progress_bar=False
    )
    sampler.run(key, groups)
    return sampler.get_samples()


def report(name: str, draws: Draws) -> None:
    table = np.column_stack([draws[site] for site in TRUTH])
    parts = (f"{m:6.3f} ± {s:.3f}" for m, s in zip(table.mean(0), table.std(0), strict=True))
    print(f"{name:12s}" + "  ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--groups", type=int, default=300)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--draws", type=int, default=1000)
    args = parser.parse_args()
    keys = jax.random.split(jax.random.key(0), 6)
    groups, _ = simulate(keys[0], args.groups, TRUTH)

    begin = time.perf_counter()
    guide, params = fit(keys[1], groups, args.steps)
    between = time.perf_counter()
    exact = nuts(keys[2], groups, args.draws)
    end = time.perf_counter()
    print(f"{between - begin:.0f} s for the guide, {end - between:.0f} s for NUTS")

    draws = guide.sample_posterior(keys[3], params, groups, sample_shape=(args.draws,))
    names = ("mean[0]", "mean[1]", "scale[0]", "scale[1]", "correlation")
    print(f"{'':12s}" + "  ".join(f"{name:14s}" for name in names))
    report("simulated", {name: jnp.stack([value, value]) for name, value in TRUTH.items()})
    report("NUTS", exact)
    report("guide", draws)

    for i, name in enumerate(("intercepts", "slopes")):
        ours, theirs = (np.asarray(each["effect"][..., i]) for each in (draws, exact))
        correlation = np.corrcoef(ours.mean(0), theirs.mean(0))[0, 1]
        ratio = (ours.std(0) / theirs.std(0)).mean()
        print(
            f"{name} of the groups, guide against NUTS: correlation of the means "
            f"{correlation:.4f}, ratio of the standard deviations {ratio:.3f}"
        )

    new_groups, new_effects = simulate(keys[4], args.draws, draws)
    new = guide.sample_posterior(keys[5], params, new_groups, sample_shape=(args.draws,))
    low, high = jnp.quantile(new["effect"], jnp.array([0.05, 0.95]), axis=0)
    inside = ((low < new_effects) & (new_effects < high)).mean()
    print(f"new groups: {100 * float(inside):.1f} % of the effects are in their 90 % intervals")


if __name__ == "__main__":
    main()
