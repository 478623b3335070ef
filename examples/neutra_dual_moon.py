"""Neural transport: NUTS between two moons, in the space where a trained guide makes them one.

    python examples/neutra_dual_moon.py [--steps N] [--draws N] [--output FOLDER]

Prints, for NUTS with and without transport, how often a chain of draws changes moons, leapfrog
steps and divergences, and the moments against the exact ones; draws both in `neutra_dual_moon.png`.
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

import flowdists as fd


def log_density(z: jax.Array) -> jax.Array:
    """Two crescents on a ring, not normalized (Rezende & Mohamed 2015)."""
    ring = ((jnp.linalg.norm(z, axis=-1) - 2.0) / 0.4) ** 2
    left, right = ((z[..., 0] + 2.0) / 0.6) ** 2, ((z[..., 0] - 2.0) / 0.6) ** 2
    return -0.5 * ring + jnp.logaddexp(-0.5 * left, -0.5 * right)


def dual_moon() -> None:
    z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    numpyro.factor("density", log_density(z))


def exact() -> tuple[float, np.ndarray]:
    """Log evidence and standard deviations, by quadrature; the means are zero."""
    axis = np.linspace(-5.0, 5.0, 1001)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    mass = np.exp(np.asarray(log_density(grid), float)) * (axis[1] - axis[0]) ** 2
    deviations = np.sqrt((mass[..., None] * grid**2).sum((0, 1)) / mass.sum())
    return np.log(mass.sum()), deviations


def run_nuts(key: jax.Array, model, num_draws: int) -> numpyro.infer.MCMC:
    kernel = numpyro.infer.NUTS(
        model, target_accept_prob=0.9, init_strategy=numpyro.infer.init_to_uniform(radius=1)
    )
    mcmc = numpyro.infer.MCMC(kernel, num_warmup=500, num_samples=num_draws, progress_bar=False)
    mcmc.run(key, extra_fields=("num_steps", "diverging"))
    return mcmc


def report(name: str, mcmc: numpyro.infer.MCMC, z: np.ndarray) -> None:
    fields = mcmc.get_extra_fields()
    crossings = int((np.diff(np.sign(z[:, 0])) != 0).sum())
    mean, deviation = z.mean(0), z.std(0)
    print(
        f"{name:22s} {crossings:5d} changes of moon in {len(z)} draws, "
        f"{fields['num_steps'].mean():.1f} leapfrog steps each, "
        f"{int(fields['diverging'].sum())} divergences\n"
        f"{'':22s} means {mean[0]:.2f} {mean[1]:.2f}, "
        f"standard deviations {deviation[0]:.2f} {deviation[1]:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=6000, help="training steps of the guide")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=Path())
    args = parser.parse_args()

    log_evidence, deviations = exact()
    print(f"exact: means 0 0, standard deviations {deviations[0]:.2f} {deviations[1]:.2f}")
    plain = run_nuts(jax.random.key(0), dual_moon, args.draws)
    without = np.asarray(plain.get_samples()["z"])
    report("NUTS", plain, without)

    # A guide that is to cover both moons has to start wider than one of them.
    start = numpyro.infer.init_to_value(values={"z": jnp.array([0.1, 0.0])})
    guide = fd.AutoFlow(dual_moon, init_loc_fn=start, init_scale=1.0)
    params, losses = fd.fit_guide(jax.random.key(1), guide, num_steps=args.steps)
    print(f"guide: ELBO {-losses[-100:].mean():.3f}, log evidence {log_evidence:.3f}")

    neutra = fd.NeuTraReparam(guide, params)
    transported = run_nuts(jax.random.key(2), neutra.reparam(dual_moon), args.draws)
    latent = transported.get_samples()["auto_shared_latent"]
    within = np.asarray(neutra.transform_sample(latent)["z"])
    report("NUTS after transport", transported, within)

    panels = {
        "NUTS": without,
        "NUTS after transport": within,
        "the same draws, where NUTS made them": latent,
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for axis, (title, draws) in zip(axes, panels.items(), strict=True):
        axis.plot(draws[:, 0], draws[:, 1], ".", markersize=2)
        axis.set(title=title, xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    figure.savefig(args.output / "neutra_dual_moon.png", dpi=120)


if __name__ == "__main__":
    main()
