"""The sites of a model: which are latent, which are data, and their values as one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowdists.bijectors._events import split_vector

Array = jax.Array
Shape = tuple[int, ...]
Trace = dict[str, dict[str, Any]]
Values = dict[str, Array]


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


def values_of(sites: Trace) -> Values:
    """The value of each site."""
    return {name: site["value"] for name, site in sites.items()}


def _names(sites: str | Sequence[str]) -> tuple[str, ...]:
    return (sites,) if isinstance(sites, str) else tuple(sites)


class Sites(NamedTuple):
    """Where the values of sites lie in one vector.

    Attributes:
      what: what these sites are, for error messages.
      names: the sites, in the order of the vector.
      shapes: the shape of the value of each site.
    """

    what: str
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(map(math.prod, self.shapes))

    @property
    def shape(self) -> Shape:
        """The shape of the value if there is only one site, otherwise of the vector."""
        return self.shapes[0] if len(self.shapes) == 1 else (self.size,)

    def pack(self, caller: str, values: Any) -> Array:
        """The vectors ``(*batch, size)`` of values ``(*batch, *shape)`` by site.

        Args:
          caller: name of the caller, for error messages.
          values: a dict, whose other entries are ignored; or the value itself, if there is only
            one site.

        Raises:
          ValueError: if a site is missing, or a value has another shape.
        """
        if not isinstance(values, Mapping):
            if len(self.names) != 1:
                raise ValueError(
                    f"{caller}: {self.what} must be a dict with the sites {self.names}, got "
                    f"{type(values).__name__}"
                )
            values = {self.names[0]: values}
        missing = [name for name in self.names if name not in values]
        if missing:
            raise ValueError(
                f"{caller}: {self.what} must have the sites {self.names}, but {missing} are missing"
            )
        vectors = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            value = jnp.asarray(values[name], jnp.result_type(float))
            batch_ndim = value.ndim - len(shape)
            if batch_ndim < 0 or value.shape[batch_ndim:] != shape:
                wanted = ", ".join(["*batch", *map(str, shape)])
                raise ValueError(
                    f"{caller}: {self.what} {name!r} has shape {value.shape}, expected ({wanted})"
                )
            vectors.append(value.reshape(*value.shape[:batch_ndim], math.prod(shape)))
        batch = jnp.broadcast_shapes(*(vector.shape[:-1] for vector in vectors))
        return jnp.concatenate([jnp.broadcast_to(v, (*batch, v.shape[-1])) for v in vectors], -1)

    def unpack(self, vector: Array) -> Values:
        """The inverse of :meth:`pack`: values by site."""
        return dict(zip(self.names, split_vector(vector, self.shapes), strict=True))
