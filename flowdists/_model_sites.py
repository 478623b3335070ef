"""What a model that is run without data draws: latent values and data."""

from __future__ import annotations

from typing import Any

import jax

Values = dict[str, jax.Array]


def split_trace(
    caller: str, trace: dict[str, Any], observed: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
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


def values_of(sites: dict[str, Any]) -> Values:
    """The sites' values."""
    return {name: site["value"] for name, site in sites.items()}
