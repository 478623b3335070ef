"""Flows as modules of a model, and what their sites are."""

import functools

import jax
import jax.numpy as jnp
import numpyro
from numpyro import handlers

import flowdists as fd
from flowdists.guides import flow_module
from tests import table

KEY = jax.random.key(0)
TINY = {"num_layers": 2, "hidden_sizes": (8,)}
X = jnp.array([[0.3, -0.7], [1.1, 0.2], [-0.4, 0.9]])


def affine(size=2):
    return fd.Affine(jnp.arange(1.0, size + 1), jnp.full(size, 0.5))


@functools.cache
def maf():
    return jax.jit(lambda key: fd.MAF(key, (2,), **TINY))(KEY)


def conditional():
    layer = fd.AffineCoupling(KEY, (2,), context_shape=(1,), hidden_sizes=(8,))
    return fd.ConditionalFlow(fd.StandardNormal((2,)), table.perturb(KEY, layer))


def prior(flow, **options):
    """A model of one draw from a trained flow."""

    def model():
        numpyro.sample("z", flow_module("prior", flow, **options))

    return model


def sites(model, *args, **kwargs):
    return handlers.trace(handlers.seed(model, 0)).get_trace(*args, **kwargs)


def values(model, *args, kind="param", **kwargs):
    trace = sites(model, *args, **kwargs)
    return {name: site["value"] for name, site in trace.items() if site["type"] == kind}
