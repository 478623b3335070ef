"""The sites of a NumPyro model: latent and observed ones, and their values as one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowdists._events import join_vector, split_vector

Array = jax.Array
Shape = tuple[int, ...]
Trace = dict[str, dict[str, Any]]
Values = dict[str, Array]


class Packing(NamedTuple):
    """Named values as one vector: flattened and concatenated, in the order of ``shapes``.

    Attributes:
      shapes: the shape of each value, without batch axes.
    """

    shapes: dict[str, Shape]

    @property
    def size(self) -> int:
        """The length of the vector."""
        return sum(map(math.prod, self.shapes.values()))

    def pack(self, values: Mapping[str, Array]) -> Array:
        """The vectors ``(*batch, size)`` of values ``(*batch, *shape)``.

        Batch axes are broadcast against each other. Other entries of ``values`` are ignored.
        """
        pieces = [jnp.asarray(values[name]) for name in self.shapes]
        return join_vector(pieces, tuple(self.shapes.values()))

    def unpack(self, vector: Array) -> Values:
        """The inverse of :meth:`pack`."""
        return dict(
            zip(self.shapes, split_vector(vector, tuple(self.shapes.values())), strict=True)
        )


def latent_sites(trace: Trace) -> Trace:
    """The sample sites of a trace that are not observed."""
    sites = trace.items()
    return {k: v for k, v in sites if v["type"] == "sample" and not v["is_observed"]}


def plate_sizes(trace: Trace) -> dict[str, tuple[int, int]]:
    """The size of each plate in a trace, and the number of its elements that the model took."""
    plates = {name: site["args"] for name, site in trace.items() if site["type"] == "plate"}
    return {name: (size, size if num is None else num) for name, (size, num) in plates.items()}


def values_of(sites: Trace) -> Values:
    """The sites' values."""
    return {name: site["value"] for name, site in sites.items()}


def latent_and_observed(
    caller: str,
    trace: Trace,
    observed: str | Sequence[str],
    latents: str | Sequence[str] | None = None,
) -> tuple[Trace, Trace]:
    """The latent and the observed sites of a model that ran without data.

    Args:
      caller: name of the caller, for error messages.
      trace: the trace of the model.
      observed: the site, or sites, that are the data.
      latents: the latent sites of interest; None for all.

    Raises:
      ValueError: if a name is unknown, a site has data, or no latent site is left.
    """
    observed = _names(observed)
    sites = {name: site for name, site in trace.items() if site["type"] == "sample"}
    if not observed or not sites.keys() >= set(observed):
        raise ValueError(
            f"{caller}: `observed` must name sample sites of the model, got {observed}; there are "
            f"{tuple(sites)}"
        )
    fixed = [name for name, site in sites.items() if site["is_observed"]]
    if fixed:
        raise ValueError(
            f"{caller}: the model must draw all its sites, got data for {fixed}; call it without "
            "data, as in `data=None`, and remove its factors"
        )
    latent = tuple(name for name in sites if name not in observed)
    if not latent:
        raise ValueError(
            f"{caller}: the model must have latent sites besides `observed`={observed}"
        )
    chosen = latent if latents is None else _names(latents)
    if not chosen or not set(latent) >= set(chosen):
        raise ValueError(
            f"{caller}: `latents` must name latent sites of the model, got {chosen}; there are "
            f"{latent}"
        )
    return {name: sites[name] for name in chosen}, {name: sites[name] for name in observed}


def _names(sites: str | Sequence[str]) -> tuple[str, ...]:
    return (sites,) if isinstance(sites, str) else tuple(sites)
