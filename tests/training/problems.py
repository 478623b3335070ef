"""Flows and data for the tests of `fit`."""

import functools

import jax
import numpy as np
import optax

from flowdists import (
    ActNorm,
    Affine,
    Chain,
    ConditionalFlow,
    ContextElementwise,
    Flow,
    StandardNormal,
)
from flowdists.training import fit, negative_log_likelihood
from flowdists.transformers import ShiftScale

MEAN, DEVIATION = np.array([3.0, -1.0], np.float32), np.array([0.5, 2.0], np.float32)

# An epoch is compiled for each optimizer object, and for each number of rows: there are few.
ADAM = optax.adam(3e-2)
FROZEN = {"optimizer": optax.sgd(0.0), "max_epochs": 1, "validation": 0.0}

score = jax.jit(negative_log_likelihood)


def affine(size: int = 2) -> Flow:
    """A flow that can be any normal of independent elements, and starts as the standard one."""
    return Flow(StandardNormal((size,)), Affine(np.zeros(size), np.ones(size)))


@functools.cache
def conditional() -> ConditionalFlow:
    """A normal whose moments are a network's of the context, then standardized by the data."""

    @jax.jit
    def layers(key: jax.Array) -> Chain:
        network = ContextElementwise(key, (2,), (1,), transformer=ShiftScale(), hidden_sizes=(16,))
        return Chain([network, ActNorm((2,))])

    return ConditionalFlow(StandardNormal((2,)), layers(jax.random.key(5)))


def gaussian(seed: int = 0, rows: int = 300) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)
    return MEAN + DEVIATION * noise


def quick(key, flow, x, **options):
    """`fit` with settings for tests; any of them can be overridden."""
    options = {"optimizer": ADAM, "max_epochs": 15, "progress": False, **options}
    return fit(key, flow, x, **options)


def leaves(flow) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(flow.bijector)]


def same(one, other) -> bool:
    """Whether two flows have equal parameters, to the last bit."""
    return all(map(np.array_equal, leaves(one), leaves(other)))
