"""Models with local latent variables, two of known posteriors, and what the tests share."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax.flatten_util import ravel_pytree
from numpyro import handlers, infer

import flowdists as fd

KEY = jax.random.key(0)
SMALL = {"num_layers": 1, "hidden_sizes": (8,), "activation": "tanh"}


def network(in_size=1, out_size=3):
    return fd.MLP(jax.random.key(5), in_size, out_size, hidden_sizes=(8,), activation="tanh")


def small_guide(model, encoder=None, **options):
    options = {"flow": fd.MAF, "global_flow": fd.MAF, **options}
    options = {"flow_options": SMALL, "global_options": SMALL, **options}
    return fd.AutoAmortizedFlow(model, network() if encoder is None else encoder, **options)


def start(guide, *args):
    """An SVI, its state and its parameters at the start."""
    svi = infer.SVI(guide.model, guide, optax.adam(1e-2), infer.Trace_ELBO())
    state = jax.jit(lambda key: svi.init(key, *args))(KEY)
    return svi, state, svi.get_params(state)


def run(guide, params, *args):
    """The values of the guide's sites, and the sum of their log-densities, as SVI scales them."""

    @jax.jit
    def values_and_density(params):
        seeded = handlers.seed(handlers.substitute(guide, params), KEY)
        trace = handlers.trace(seeded).get_trace(*args)
        values = {k: v["value"] for k, v in trace.items() if v["type"] in ("sample", "plate")}
        density = sum(
            (1.0 if site["scale"] is None else site["scale"])
            * site["fn"].log_prob(site["value"]).sum()
            for site in trace.values()
            if site["type"] == "sample"
        )
        return values, density

    return values_and_density(params)


def perturb(params, scale=0.3):
    vector, unravel = ravel_pytree(params)
    return unravel(vector + scale * jax.random.normal(jax.random.key(6), vector.shape))


def losses(guide, params, *args, num_keys, loss=None):
    loss = loss or infer.Trace_ELBO()
    keys = jax.random.split(jax.random.key(7), num_keys)
    evaluate = jax.vmap(lambda key: loss.loss(key, params, guide.model, guide, *args))
    return np.asarray(jax.jit(evaluate)(keys), np.float64)


def standard_error(values):
    return values.std() / len(values) ** 0.5


SLOPE, NOISE = 2.0, 0.8


def linear_gaussian(x, batch_size=None):
    """z given x is normal, and so is x."""
    with numpyro.plate("data", len(x), subsample_size=batch_size) as rows:
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(SLOPE * z, NOISE), obs=x[rows])


def linear_gaussian_data(size=200):
    return (SLOPE**2 + NOISE**2) ** 0.5 * jax.random.normal(jax.random.key(1), (size,))


PRIOR_SCALE, GROUP_SCALE, ERROR_SCALE = 5.0, 0.5, 1.0


def hierarchical(y, batch_size=None):
    """A mean, a deviation from it for each group, one observation of each: all of it normal."""
    mean = numpyro.sample("mean", dist.Normal(0.0, PRIOR_SCALE))
    with numpyro.plate("groups", len(y), subsample_size=batch_size) as rows:
        effect = numpyro.sample("effect", dist.Normal(mean, GROUP_SCALE))
        numpyro.sample("y", dist.Normal(effect, ERROR_SCALE), obs=y[rows])


def hierarchical_posterior(y):
    """Mean and covariance of (mean, effects), and the log-evidence."""
    y = np.asarray(y, np.float64)
    size = len(y)
    prior = np.full((1 + size, 1 + size), PRIOR_SCALE**2)
    prior[1:, 1:] += GROUP_SCALE**2 * np.eye(size)
    design = np.eye(1 + size)[1:]
    marginal = design @ prior @ design.T + ERROR_SCALE**2 * np.eye(size)
    gain = prior @ design.T @ np.linalg.inv(marginal)
    _, log_det = np.linalg.slogdet(2 * np.pi * marginal)
    evidence = -0.5 * (y @ np.linalg.solve(marginal, y) + log_det)
    return gain @ y, prior - gain @ design @ prior, evidence


def bounded(y, batch_size=None):
    """Positive and simplex-valued sites, globally and for each datum, over a second plate."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    times = numpyro.plate("times", 2, dim=-1)
    with numpyro.plate("data", len(y), subsample_size=batch_size, dim=-2) as rows:
        with times:
            scale = numpyro.sample("scale", dist.Gamma(2.0, rate))
        mixture = numpyro.sample("mixture", dist.Dirichlet(1.0 + weights))
        loc = numpyro.sample("loc", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        with times:
            mean = (mixture * loc).sum(-1)
            numpyro.sample("y", dist.Normal(mean, scale), obs=y[rows])


def bounded_data(size=6):
    return jax.random.normal(jax.random.key(2), (size, 2))


def two_plates(x, batch_size=None, other_size=None):
    """Latent sites in each of two plates."""
    with numpyro.plate("others", 4, subsample_size=other_size):
        numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", len(x), subsample_size=batch_size):
        numpyro.sample("b", dist.Normal(0.0, 1.0))
