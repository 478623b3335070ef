"""Flows with parameters drawn by NumPy: their construction is traced, but not compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def drawn(make: Callable[[jax.Array], Any], scale: float = 0.15) -> Any:
    """What ``make`` builds of a key, with normal draws of deviation ``scale`` for parameters."""
    draws = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * draws.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(make, jax.random.key(0)),
    )
