"""The sites of a NumPyro model: latent ones and data, and their values as one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowdists.bijectors.concatenated import split

Array = jax.Array
Shape = tuple[int, ...]
Sites = dict[str, dict[str, Any]]
Values = dict[str, Array]


class Packing(NamedTuple):
    """Named values as one vector: flattened and concatenated, in the order of ``shapes``.

    Attributes:
      shapes: the shape of each value, without batch axes.
    """

    shapes: dict[str, Shape]

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(map(math.prod, self.shapes.values()))

    def pack(self, values: Mapping[str, Array]) -> Array:
        """The vectors ``(*batch, size)`` of values ``(*batch, *shape)``.

        Batch axes are broadcast against each other. Other entries of ``values`` are ignored.
        """
        parts = []
        for name, shape in self.shapes.items():
            value = jnp.asarray(values[name])
            parts.append(value.reshape(*value.shape[: value.ndim - len(shape)], math.prod(shape)))
        batch = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return jnp.concatenate([jnp.broadcast_to(p, (*batch, p.shape[-1])) for p in parts], axis=-1)

    def unpack(self, vector: Array) -> Values:
        """The inverse of :meth:`pack`."""
        return dict(zip(self.shapes, split(vector, list(self.shapes.values())), strict=True))


def latent_sites(trace: Sites) -> Sites:
    """The sample sites of a trace that are not observed."""
    sites = trace.items()
    return {k: v for k, v in sites if v["type"] == "sample" and not v["is_observed"]}


def values_of(sites: Sites) -> Values:
    """The sites' values."""
    return {name: site["value"] for name, site in sites.items()}


def split_trace(caller: str, trace: Sites, observed: tuple[str, ...]) -> tuple[Sites, Sites]:
    """The latent and the observed sites of a model that was run without data.

    Args:
      caller: what to call the caller in an error message.
      trace: the model's trace.
      observed: names of the sites that are the data.

    Raises:
      ValueError: if a name is unknown, a site has data, or no latent site is left.
    """
    sites = {name: site for name, site in trace.items() if site["type"] == "sample"}
    unknown = [name for name in observed if name not in sites]
    if unknown or not observed:
        raise ValueError(
            f"{caller}: `observed` must name sample sites of the model, got {observed}; there are "
            f"{tuple(sites)}"
        )
    fixed = [name for name, site in sites.items() if site["is_observed"]]
    if fixed:
        raise ValueError(
            f"{caller}: the model must draw all its sites, got data for {fixed}; call it without, "
            "as in `data=None`, and leave out factors"
        )
    latents = {name: site for name, site in sites.items() if name not in observed}
    if not latents:
        raise ValueError(
            f"{caller}: the model must have latent sites besides `observed`={observed}"
        )
    return latents, {name: sites[name] for name in observed}
