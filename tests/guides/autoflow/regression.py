"""A model whose posterior is normal and known, and what the tests of its guides share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro import handlers, infer
from scipy import stats

import flowdists as fd
from flowdists.guides import AutoFlow
from tests import table
from tests.tolerances import STANDARD_ERRORS

KEY = jax.random.key(0)
TINY = {"num_layers": 2, "hidden_sizes": (8,)}


def linear(key, shape):
    """The cheapest flow that mixes all dimensions."""
    return fd.Flow(fd.StandardNormal(shape), fd.LULinear(key, shape))


RNG = np.random.default_rng(0)
DESIGN = RNG.normal(size=(6, 3))
Y = RNG.normal(1.0, 2.0, size=6)
PRIOR_VARIANCE = np.array([4.0, 1.0, 1.0])
NOISE = 0.7


def regression(design, y):
    """A normal posterior. The sites, in this order, are neither sorted nor of one shape."""
    level = numpyro.sample("level", dist.Normal(0.0, 2.0))
    with numpyro.plate("columns", 2):
        slopes = numpyro.sample("a_slope", dist.Normal(0.0, 1.0))
    mean = numpyro.deterministic("mean", design @ jnp.append(level, slopes))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mean, NOISE), obs=y)


DATA = (DESIGN, Y)
EVIDENCE = stats.multivariate_normal(
    np.zeros(6), DESIGN * PRIOR_VARIANCE @ DESIGN.T + NOISE**2 * np.eye(6)
).logpdf(Y)
COVARIANCE = np.linalg.inv(np.diag(1 / PRIOR_VARIANCE) + DESIGN.T @ DESIGN / NOISE**2)
MEAN = COVARIANCE @ DESIGN.T @ Y / NOISE**2


def start(guide, *args, loss=None, key=KEY, **kwargs):
    """A guide's parameters before training, and the SVI they are of."""
    loss = infer.Trace_ELBO() if loss is None else loss
    svi = infer.SVI(guide.model, guide, optax.adam(1e-2), loss)
    state = svi.init(key, *args, **kwargs)
    return svi, state, svi.get_params(state)


@functools.cache
def _exact(x64):
    guide = AutoFlow(regression, fd.RealNVP, **TINY)
    return guide, start(guide, *DATA)[2]


def exact():
    """A guide at its start, which is exact here, and its parameters; in the present precision."""
    return _exact(jax.config.jax_enable_x64)


def perturbed(params, scale=0.3):
    """Parameters as if after training. The start is held, as in training."""
    moved = {name: v for name, v in params.items() if name not in ("auto_loc", "auto_scale")}
    return params | table.perturb(jax.random.key(3), moved, scale)


def run(guide, params, *args, key=KEY):
    seeded = handlers.seed(handlers.substitute(guide, params), key)
    return handlers.trace(seeded).get_trace(*args)


def elbos(guide, params, *args, num=4000):
    """One particle's ELBO, for each of many keys."""
    one = lambda key: -infer.Trace_ELBO().loss(key, params, guide.model, guide, *args)
    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, num)), np.float64)


def assert_mean(draws, expected):
    draws = np.asarray(draws, np.float64)
    errors = np.abs(draws.mean(0) - expected) / (draws.std(0) / len(draws) ** 0.5)
    assert (errors < STANDARD_ERRORS).all(), errors
