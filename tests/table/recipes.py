"""Recipes of flows over vectors, each without and with a context."""

import functools
from collections.abc import Callable

import jax

import flowdists as fd
from tests.table.record import Entry
from tests.table.sizes import SMALL

RECIPES: dict[str, Callable[..., fd.Flow | fd.ConditionalFlow]] = {
    "real_nvp": functools.partial(fd.RealNVP, num_layers=3, **SMALL),
    "glow_1d": functools.partial(fd.Glow1D, num_layers=2, **SMALL),
    "maf": functools.partial(fd.MAF, num_layers=3, **SMALL),
    "iaf": functools.partial(fd.IAF, num_layers=2, **SMALL),
    "nsf": functools.partial(fd.NSF, num_layers=3, num_bins=5, **SMALL),
    "nsf_splines_alone": functools.partial(fd.NSF, num_layers=2, num_bins=5, affine=False, **SMALL),
    "nsf_autoregressive": functools.partial(
        fd.NSF, num_layers=2, num_bins=5, autoregressive=True, **SMALL
    ),
}


def _make(recipe: str, key: jax.Array, **options: object) -> fd.Bijector:
    return RECIPES[recipe](key, **options).bijector


UNCONDITIONAL_RECIPES = tuple(
    Entry(f"recipe:{recipe}", fd.Chain, functools.partial(_make, recipe, event_shape=(4,)))
    for recipe in RECIPES
)

SMOKE_RECIPES = UNCONDITIONAL_RECIPES[:5]
"""Each recipe once, without its variants."""

CONDITIONAL_RECIPES = tuple(
    Entry(
        f"conditional_recipe:{recipe}",
        fd.Embedded,
        functools.partial(_make, recipe, event_shape=(3,), context_shape=(2,), num_layers=2),
    )
    for recipe in RECIPES
)
