"""Random inputs and parameters, drawn by NumPy: JAX would compile a program for every shape."""

from collections.abc import Callable
from typing import Any

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


def draw_like(shapes: Any, scale: float, seed: int = 0) -> Any:
    """A pytree of normal draws times ``scale``, of these shapes and dtypes."""
    draws = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(
            np.asarray(scale * draws.normal(size=leaf.shape), leaf.dtype)  # rounded by NumPy, too
        ),
        shapes,
    )


def drawn(make: Callable[[jax.Array], Any], scale: float = 0.15, seed: int = 0) -> Any:
    """What ``make`` builds of a key, with normal draws times ``scale`` for its parameters.

    Building is traced alone, so that nothing is compiled.
    """
    return draw_like(jax.eval_shape(make, jax.random.key(0)), scale, seed)
