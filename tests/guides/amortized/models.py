"""Models with local latent variables, two of known posteriors, and what the tests share."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro import handlers, infer

import flowdists as fd
from flowdists.transformers import Additive
from tests.draws import draw_like, drawn, normal

KEY = jax.random.key(0)
SMALL = {"num_layers": 1, "hidden_sizes": (4,), "activation": "tanh"}


class Scaled(eqx.Module):
    """The cheapest encoder."""

    factor: jax.Array

    def __call__(self, row):
        return self.factor * row


def built(make, *args, **options):
    """What ``make(key, *args, **options)`` builds, with parameters drawn by NumPy: no compilation.

    A guide that is given a recipe makes its flow with every operation by itself.
    """
    return drawn(lambda key: make(key, *args, **options), 0.3, seed=6)


def network(in_size=1, out_size=3):
    make = functools.partial(fd.MLP, in_size=in_size, out_size=out_size)
    return built(make, hidden_sizes=(4,), activation="tanh")


def small_guide(model, encoder=None, **options):
    """A guide with recipes."""
    options = {"flow": fd.MAF, "global_flow": fd.MAF, **options}
    options = {"flow_options": SMALL, "global_options": SMALL, **options}
    return fd.AutoAmortizedFlow(model, network() if encoder is None else encoder, **options)


def gaussian_guide(model, encoder=None, *, context_size=1, **options):
    """A guide of Gaussians: a shift of one dimension that is linear in the context; one global."""
    flow = built(
        functools.partial(fd.ContextElementwise, transformer=Additive()),
        event_shape=(1,),
        context_shape=(context_size,),
        hidden_sizes=(),
    )
    own = {
        "flow": fd.ConditionalFlow(fd.StandardNormal((1,)), flow),
        "global_flow": fd.Flow(fd.StandardNormal((1,)), fd.Affine(np.zeros(1), np.ones(1))),
    }
    encoder = Scaled(jnp.ones(1)) if encoder is None else encoder
    return fd.AutoAmortizedFlow(model, encoder, **(own | options))


def start(guide, *args):
    """An SVI, its state and its parameters at the start."""
    svi = infer.SVI(guide.model, guide, optax.adam(1e-2), infer.Trace_ELBO())
    state = jax.jit(lambda key: svi.init(key, *args))(KEY)
    return svi, state, svi.get_params(state)


def start_shapes(guide, *args):
    """Shapes of the parameters. The guide has seen its model then; nothing is compiled."""
    svi = infer.SVI(guide.model, guide, optax.sgd(1e-2), infer.Trace_ELBO())
    return jax.eval_shape(lambda key: svi.get_params(svi.init(key, *args)), KEY)


def drawn_params(guide, *args):
    """Parameters away from their start."""
    return draw_like(start_shapes(guide, *args), 0.3, seed=6)


def zeros_but(given, guide, *args):
    """Parameters that are zero, at which flows are the identity, but for those ``given``."""
    shapes = start_shapes(guide, *args)
    given = {"auto_encoder.factor": 1.0, **given}
    assert given.keys() <= shapes.keys()
    return {
        name: jnp.asarray(np.broadcast_to(given.get(name, 0.0), leaf.shape), leaf.dtype)
        for name, leaf in shapes.items()
    }


def run(guide, params, *args):
    """The values of the guide's sites, and the sum of their log-densities, as SVI scales them."""
    seeded = handlers.seed(handlers.substitute(guide, params), KEY)
    trace = handlers.trace(seeded).get_trace(*args)
    values = {k: v["value"] for k, v in trace.items() if v["type"] in ("sample", "plate")}
    density = sum(
        (1.0 if site["scale"] is None else site["scale"]) * site["fn"].log_prob(site["value"]).sum()
        for site in trace.values()
        if site["type"] == "sample"
    )
    return values, density


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
    return normal(1, (size,), (SLOPE**2 + NOISE**2) ** 0.5)


def exact_linear_gaussian(x):
    """A guide that is the posterior of :func:`linear_gaussian`, and its parameters."""
    guide = gaussian_guide(linear_gaussian)
    scale = NOISE / (SLOPE**2 + NOISE**2) ** 0.5
    slope = SLOPE / (SLOPE**2 + NOISE**2) / scale
    return guide, zeros_but(
        {
            "auto_local_affine.log_scale": np.log(scale),
            # The context is one more than the encoder's output.
            "auto_local_units.conditioner.weight": [[slope, 0.0]],
            "auto_local_units.conditioner.bias": [-slope, 0.0],
        },
        guide,
        x,
    )


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


def gaussian_hierarchical(y, mean_scale, **options):
    """A guide with the posterior's means, a scale of the mean, and effects given the mean.

    They are given the posterior's mean of it, if the local flow does not see the draw.
    """
    sees_mean = options.get("condition_on_global", True)
    guide = gaussian_guide(hierarchical, context_size=1 + sees_mean, **options)
    mean = hierarchical_posterior(y)[0][0]
    precision = 1 / GROUP_SCALE**2 + 1 / ERROR_SCALE**2
    to_data = 1 / ERROR_SCALE**2 / precision**0.5  # in units of the scale of the effects
    to_mean = 1 / GROUP_SCALE**2 / precision**0.5
    weight = [[to_data, 0.0], [to_mean * mean_scale, 0.0]]
    return guide, zeros_but(
        {
            "auto_global_affine.loc": mean,
            "auto_global_affine.log_scale": np.log(mean_scale),
            "auto_local_affine.log_scale": -0.5 * np.log(precision),
            "auto_local_units.conditioner.weight": weight[: 1 + sees_mean],
            "auto_local_units.conditioner.bias": [to_mean * mean - to_data, 0.0],
        },
        guide,
        y,
    )


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
    return normal(2, (size, 2))


def two_plates(x, batch_size=None, other_size=None):
    """Latent sites in each of two plates."""
    with numpyro.plate("others", 4, subsample_size=other_size):
        numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", len(x), subsample_size=batch_size):
        numpyro.sample("b", dist.Normal(0.0, 1.0))
