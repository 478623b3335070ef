"""Flows as priors in NumPyro models: those with bounds, and of which kinds their supports are."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import flowdists as fd
from tests.draws import drawn

KEY = jax.random.key(0)
TINY = {"hidden_sizes": (6,), "activation": "tanh"}


def coupling(**options):
    return drawn(lambda key: fd.AffineCoupling(key, (2,), **TINY, **options), 0.7, seed=1)


def spline(scale=0.7, **options):
    return drawn(
        lambda key: fd.SplineCoupling(key, (2,), num_bins=4, **TINY, **options), scale, seed=2
    )


def linear():
    return drawn(lambda key: fd.LULinear(key, (2,)), 0.4, seed=3)


def affine():
    return fd.Affine(jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0]))


def interval(low=-1.0, high=3.0):
    return fd.to_support(constraints.interval(low, high))


def normal(*layers, shape=(2,)):
    return fd.Flow(fd.StandardNormal(shape), fd.Chain(layers))


def uniform(*layers, low=0.0, high=1.0):
    return fd.Flow(fd.StandardUniform((2,), low, high), fd.Chain(layers))


# Flows with a support that NumPyro has a name for.
NAMED = {
    "interval": lambda: normal(coupling(), linear(), interval()),
    "positive": lambda: normal(coupling(), fd.to_support(constraints.positive)),
    "simplex": lambda: normal(coupling(), fd.to_support(constraints.simplex)),
    "circle": lambda: uniform(spline(0.2, tails="circular", bound=np.pi), low=-np.pi, high=np.pi),
}
# Flows with the image of their base's support,
IMAGES_OF_THE_BASE = {
    "uniform, affine": lambda: uniform(affine()),
    "uniform, couplings": lambda: uniform(coupling(), linear(), spline(bound=2.0), affine()),
    "gamma, coupling": lambda: fd.Flow(dist.Gamma(3.0 * jnp.ones(2), 2.0).to_event(1), coupling()),
    "context": lambda: fd.ConditionalFlow(
        fd.StandardUniform((2,)), coupling(context_shape=(1,))
    ).condition(jnp.array([0.7])),
}
# and of what one of their layers leads to.
IMAGES = IMAGES_OF_THE_BASE | {
    "interval, linear": lambda: normal(coupling(), interval(), linear()),
    "bounds in an array": lambda: normal(
        coupling(), interval(np.array([-1.0, 0.0]), np.array([3.0, 1.0]))
    ),
}
BOUNDED = NAMED | IMAGES
ONE_OF_EACH_KIND = ("simplex", "interval, linear")
bounded = pytest.mark.parametrize("name", sorted(BOUNDED))
one_of_each_kind = pytest.mark.parametrize("name", ONE_OF_EACH_KIND)


def prior(flow):
    numpyro.sample("z", flow)
