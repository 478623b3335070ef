"""A model run at given values of its latent sites, and with other rows of its plates."""

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

from flowdists._events import sum_last
from flowdists._model_sites import Trace

Array = jax.Array


def run_at(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    values: Mapping[str, Array],
) -> Trace:
    """The trace of ``model`` at unconstrained ``values`` of its latent sites.

    Supports are taken from this run, because they may depend on the data and on other sites.
    """

    def constrain(site: dict[str, Any]) -> Array | None:
        if site["type"] != "sample" or site["name"] not in values:
            return None
        return biject_to(site["fn"].support)(values[site["name"]])

    key = numpyro.prng_key()
    seeded = handlers.seed(model, rng_seed=jax.random.key(0) if key is None else key)
    # The block lets parameters of the model through, because supports may depend on them.
    with handlers.block(hide_fn=lambda site: site["type"] != "param"):
        return handlers.trace(handlers.substitute(seeded, substitute_fn=constrain)).get_trace(
            *args, **kwargs
        )


def has_live_supports(latents: Trace) -> bool:
    """Whether a support may depend on sites or data, because it holds more than plain numbers."""
    leaves = jax.tree.leaves([site["fn"].support for site in latents.values()])
    return not all(isinstance(leaf, int | float) for leaf in leaves)


def constrain(fn: dist.Distribution, unconstrained: Array) -> tuple[Array, Array | None]:
    """A value in the support of ``fn``, and the log-determinant of the map to it.

    The log-determinant has the batch shape of the value. It is None where NumPyro masks all
    log-densities, because nothing needs it there.
    """
    transform = biject_to(fn.support)
    value = transform(unconstrained)
    if numpyro.get_mask() is False:
        return value, None
    log_det = jnp.asarray(transform.log_abs_det_jacobian(unconstrained, value))
    return value, sum_last(log_det, log_det.ndim - value.ndim + fn.event_dim)


def constrained_draw(fn: dist.Distribution, unconstrained: Array) -> dist.Delta:
    """The value of a site, whose unconstrained draw is at another site.

    The density of the draw is counted at that other site. This one adds the change of volume.
    """
    value, log_det = constrain(fn, unconstrained)
    log_density = 0.0 if log_det is None else -log_det
    return dist.Delta(value, log_density=log_density, event_dim=fn.event_dim)


class OtherRows(Messenger):
    """A handler that replaces the rows which the plates of a model take.

    Args:
      model: a NumPyro model.
      rows: for each plate to change, the indices of its rows, or the number to draw at random.
    """

    def __init__(self, model: Callable[..., Any], rows: Mapping[str, Array | int]) -> None:
        super().__init__(model)
        self._rows = rows

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "plate" or msg["name"] not in self._rows:
            return
        rows = self._rows[msg["name"]]
        if isinstance(rows, int):
            msg["args"] = (msg["args"][0], rows)
        else:
            msg["args"] = (msg["args"][0], len(rows))
            msg["value"] = rows
