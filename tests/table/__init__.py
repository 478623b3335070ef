"""One table of named constructors: every layer, combinator and recipe, in the states worth testing.

The parametrized tests run over it, so that a new layer is covered by a new line in the file of its
kind. :func:`build` makes a bijector of it, with its parameters moved away from their start.
"""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

import flowdists as fd
from tests.table.conditional_layers import CONDITIONAL_LAYERS
from tests.table.image_layers import IMAGE_LAYERS
from tests.table.layers import LAYERS
from tests.table.recipes import (
    CONDITIONAL_RECIPES,
    RECIPES,
    SMOKE_RECIPES,
    UNCONDITIONAL_RECIPES,
)
from tests.table.record import Entry
from tests.table.sizes import CIRCULAR, SMALL, SMALL_CONV, SPLINE

__all__ = [
    "CIRCULAR",
    "EVERY",
    "OF_CLASS",
    "RECIPES",
    "SMALL",
    "SMALL_CONV",
    "SMOKE_RECIPES",
    "SPLINE",
    "Entry",
    "build",
    "build_flow",
    "perturb",
]

_ENTRIES = (
    *LAYERS,
    *CONDITIONAL_LAYERS,
    *IMAGE_LAYERS,
    *UNCONDITIONAL_RECIPES,
    *CONDITIONAL_RECIPES,
)

EVERY: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Every entry by its name; :func:`build` takes such a name."""

OF_CLASS: dict[type[fd.Bijector], Entry] = {}
"""The entry that stands for each class: its first."""
for _entry in _ENTRIES:
    OF_CLASS.setdefault(_entry.cls, _entry)


def perturb(key: jax.Array, tree, scale: float = 0.5):
    """Every parameter moved by a normal draw of standard deviation ``scale``."""
    draws = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jax.tree.map(
        lambda leaf: jnp.asarray(
            np.asarray(leaf + scale * draws.normal(size=leaf.shape), leaf.dtype)
        ),
        jax.tree.map(np.asarray, tree),
    )


def _key(name: str) -> jax.Array:
    return jax.random.key(zlib.crc32(name.encode()))


@functools.cache
def _start(name: str, x64: bool) -> fd.Bijector:
    return jax.jit(EVERY[name].make)(_key(name))


def build(name: str) -> fd.Bijector:
    """The entry's bijector with parameters away from their start, the same on every call."""
    return perturb(_key(name), _start(name, jax.config.jax_enable_x64), EVERY[name].move)


def build_flow(name: str, event_shape=(4,), scale=0.3, **options) -> fd.Flow | fd.ConditionalFlow:
    """A recipe's flow with parameters away from their start, the same on every call."""
    recipe = functools.partial(RECIPES[name], event_shape=event_shape, **options)
    flow = jax.jit(recipe)(_key(name))
    return flow.replace(bijector=perturb(_key(name), flow.bijector, scale))
