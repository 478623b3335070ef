"""What `fit` is asked to learn in its tests."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flowdists import ActNorm, Affine, AffineCoupling, Chain, ConditionalFlow, Flow, StandardNormal
from flowdists.training import fit

MEAN, DEVIATION = jnp.array([3.0, -1.0]), jnp.array([0.5, 2.0])


def affine(size: int = 2) -> Flow:
    """A flow that can be any normal of independent elements, and starts as the standard one."""
    return Flow(StandardNormal((size,)), Affine(jnp.zeros(size), jnp.ones(size)))


def conditional() -> ConditionalFlow:
    keys = jax.random.split(jax.random.key(5))
    options = {"context_shape": (1,), "hidden_sizes": (16,)}
    layers = [AffineCoupling(k, (2,), flip=bool(i), **options) for i, k in enumerate(keys)]
    return ConditionalFlow(StandardNormal((2,)), Chain([*layers, ActNorm((2,))]))


def gaussian(key, rows: int = 2000):
    return MEAN + DEVIATION * jax.random.normal(key, (rows, 2))


def quick(key, flow, x, **options):
    """`fit` with settings for tests; any of them can be overridden."""
    options = {"optimizer": optax.adam(3e-2), "max_epochs": 15, "progress": False, **options}
    return fit(key, flow, x, **options)


def leaves(flow) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(flow.bijector)]
