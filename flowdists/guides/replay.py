"""A model run at given values of its latent variables, where these are unconstrained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.primitives import Messenger

from flowdists.bijectors._events import sum_last

Array = jax.Array


def replay(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    plate: str,
    indices: Array,
    values: Mapping[str, Array],
) -> dict[str, Any]:
    """As :func:`run_at`, for a choice of the data.

    Args:
      model: a NumPyro model.
      args: its arguments.
      kwargs: its keyword arguments.
      plate: the plate of the data.
      indices: the elements of the plate that are in this run.
      values: unconstrained values by site.
    """
    return run_at(_Subsample(model, plate, indices), args, kwargs, values)


def run_at(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    values: Mapping[str, Array],
) -> dict[str, Any]:
    """The trace of ``model`` at unconstrained ``values`` of its latent sites.

    The supports are those of this very run: they may depend on the data, and on other sites.
    """

    def constrain(site: dict[str, Any]) -> Array | None:
        if site["type"] != "sample" or site["name"] not in values:
            return None
        return biject_to(site["fn"].support)(values[site["name"]])

    key = numpyro.prng_key()
    seeded = handlers.seed(model, rng_seed=jax.random.key(0) if key is None else key)
    # The model's own parameters pass through the block, because supports may depend on them.
    with handlers.block(hide_fn=lambda site: site["type"] != "param"):
        return handlers.trace(handlers.substitute(seeded, substitute_fn=constrain)).get_trace(
            *args, **kwargs
        )


class _Subsample(Messenger):
    """Sets the elements that a plate has, and with them its subsample size."""

    def __init__(self, model: Callable[..., Any], plate: str, indices: Array) -> None:
        super().__init__(model)
        self._plate = plate
        self._indices = indices

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate" and msg["name"] == self._plate:
            msg["args"] = (msg["args"][0], len(self._indices))
            msg["value"] = self._indices


class MoreRows(Messenger):
    """Gives plates that are subsampled a larger subsample, or all of their elements."""

    def __init__(self, model: Callable[..., Any], sizes: Mapping[str, int]) -> None:
        super().__init__(model)
        self._sizes = sizes

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate" and msg["name"] in self._sizes:
            size, num = msg["args"][0], self._sizes[msg["name"]]
            msg["args"] = (size, num)
            if num == size:
                msg["value"] = jnp.arange(size)


def constrained_draw(site: dict[str, Any], unconstrained: Array) -> dist.Delta:
    """The draw of a site, with the density of what it was made from carried over."""
    value, event_dim = site["value"], site["fn"].event_dim
    log_det = biject_to(site["fn"].support).log_abs_det_jacobian(unconstrained, value)
    log_det = sum_last(log_det, log_det.ndim - value.ndim + event_dim)
    return dist.Delta(value, log_density=-log_det, event_dim=event_dim)
