"""The posterior of a hierarchical model with a funnel, by AutoFlow against NUTS.

    python examples/funnel.py [--steps N] [--draws N] [--output FOLDER]

Eight schools, centred: eight noisy effects around a common mean, with a scale that the data hardly
know, so that the effects' spread narrows to a point where the scale is small. Prints the ELBOs of
AutoFlow and of NumPyro's guides, the Pareto k-hat, and marginals against a long run of NUTS on the
non-centred model; draws the funnel in `funnel.png`.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import autoguide
from numpyro.infer.reparam import LocScaleReparam

import flowdists as fd

EFFECTS = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools() -> None:
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, ERRORS), obs=EFFECTS)


def run_nuts(key: jax.Array, num_draws: int) -> dict[str, jax.Array]:
    """The reference, on the non-centred model, which NUTS can do."""
    model = numpyro.handlers.reparam(eight_schools, config={"theta": LocScaleReparam(0.0)})
    kernel = numpyro.infer.NUTS(model, target_accept_prob=0.95)
    mcmc = numpyro.infer.MCMC(kernel, num_warmup=1000, num_samples=num_draws, progress_bar=False)
    mcmc.run(key)
    return mcmc.get_samples()


def elbo(guide: autoguide.AutoGuide, params: dict) -> float:
    loss = numpyro.infer.Trace_ELBO(num_particles=4000)
    return -float(loss.loss(jax.random.key(9), params, eight_schools, guide))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=5000, help="training steps of each guide")
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--output", type=Path, default=Path())
    args = parser.parse_args()

    guides = {
        "AutoNormal": autoguide.AutoNormal(eight_schools),
        "AutoMultivariateNormal": autoguide.AutoMultivariateNormal(eight_schools),
        "AutoFlow": fd.AutoFlow(eight_schools),
    }
    print("ELBO in nats:")
    for name, guide in guides.items():
        start = time.perf_counter()
        # In raw coordinates, effects of size 10 are far away: the others need larger steps.
        rate = 0.005 if name == "AutoFlow" else 0.05
        params, _ = fd.fit_guide(
            jax.random.key(0), guide, num_steps=args.steps, learning_rate=rate, progress=False
        )
        print(f"  {name:24s} {elbo(guide, params):8.3f}   {time.perf_counter() - start:5.1f} s")

    result = fd.importance_sampling(
        jax.random.key(1), eight_schools, guide, params, num_samples=args.draws
    )
    print(
        f"AutoFlow: k-hat {result.khat:.2f}, log evidence {result.log_evidence:.3f} "
        f"± {result.log_evidence_se:.3f}"
    )
    draws = guide.sample_posterior(jax.random.key(2), params, sample_shape=(args.draws,))
    reference = run_nuts(jax.random.key(3), args.draws)
    for site in ("mu", "tau", "theta"):
        first = (np.asarray(d[site]).reshape(args.draws, -1)[:, 0] for d in (draws, reference))
        ours, nuts = (f"{values.mean():5.2f} ± {values.std():.2f}" for values in first)
        name = "theta[0]" if site == "theta" else site
        print(f"  {name:9s} AutoFlow {ours}   NUTS {nuts}")

    figure, axes = plt.subplots(
        1, 2, figsize=(9, 4), sharex=True, sharey=True, layout="constrained"
    )
    panels = {"AutoFlow, centred": draws, "NUTS, non-centred": reference}
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        axis.plot(panel["theta"][:4000, 0], np.log(panel["tau"][:4000]), ".", markersize=2)
        axis.set(title=title, xlabel="effect in the first school", xlim=(-20, 40), ylim=(-4, 4))
    axes[0].set_ylabel("log of the scale")
    figure.savefig(args.output / "funnel.png", dpi=120)


if __name__ == "__main__":
    main()
