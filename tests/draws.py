"""Random inputs of tests, drawn by NumPy: JAX would compile a program for every shape."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed: int, shape: tuple[int, ...] = (), scale: float = 1.0) -> jax.Array:
    """Standard normal draws times ``scale``, in the default precision."""
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape))


def uniform(
    seed: int, shape: tuple[int, ...] = (), low: float = 0.0, high: float = 1.0
) -> jax.Array:
    """Uniform draws between ``low`` and ``high``, in the default precision."""
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, size=shape))
