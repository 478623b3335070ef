"""The Gaussian that a guide starts from: found by Pathfinder, or taken from another guide."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.autoguide import (
    AutoContinuous,
    AutoDiagonalNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

from flowdists._model_sites import Packing, Trace, plate_sizes
from flowdists.guides.pathfinder import Gaussian, pathfinder
from flowdists.guides.replay import OtherRows

Array = jax.Array

MAX_ROWS = 10_000
"""The largest number of elements of subsampled plates for Pathfinder, if no subsample is larger."""

_JOINT = (
    AutoDiagonalNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)


def start_module(prefix: str, find: Callable[[], Gaussian]) -> Gaussian:
    """A start whose location and scale are ``numpyro.param`` sites, which are not trained.

    Args:
      prefix: the prefix of the sites' names.
      find: finds the start. It is not called where the values of the sites are substituted.
    """
    find = functools.cache(find)
    loc = numpyro.param(f"{prefix}_loc", lambda _: find().loc)
    scale = numpyro.param(f"{prefix}_scale", lambda _: find().scale)
    return Gaussian(jax.lax.stop_gradient(loc), jax.lax.stop_gradient(scale))


def gaussian_start(
    caller: str, guide: Any, params: dict[str, Any]
) -> Callable[[Packing], Gaussian]:
    """The Gaussian of a guide, as a function of how the unconstrained sites make a vector.

    Args:
      caller: the name of the caller, for error messages.
      guide: one of NumPyro's Gaussian guides, after it has been run.
      params: its parameters.

    Raises:
      TypeError: if ``guide`` is another kind of guide.
      ValueError: if it has not been run.
    """
    if not isinstance(guide, (AutoNormal, *_JOINT)):
        raise TypeError(
            f"{caller}: `guide` must be one of numpyro's Gaussian guides (AutoNormal, "
            f"AutoMultivariateNormal, ...), got {type(guide).__name__}"
        )
    if guide.prototype_trace is None:
        raise ValueError(
            f"{caller}: `guide` has not been run; initialize it with `SVI.init` or call it with "
            "the model's arguments"
        )
    if isinstance(guide, AutoNormal):
        return functools.partial(_independent, guide, params)
    posterior = guide.get_posterior(params)  # now: AutoLaplaceApproximation runs its model for it
    is_diagonal = isinstance(posterior, dist.Normal)
    scale = posterior.scale if is_diagonal else posterior.scale_tril
    return functools.partial(_reordered, guide, Gaussian(posterior.loc, scale))


def _reordered(guide: AutoContinuous, gaussian: Gaussian, packing: Packing) -> Gaussian:
    """``gaussian``, whose dimensions are in the order of ``guide``, in the order of ``packing``."""
    order = packing.pack(guide._unpack_latent(jnp.arange(gaussian.loc.size)))
    loc, scale = gaussian.loc[order], gaussian.scale[order]
    if scale.ndim == 2:
        # The reordered factor is not triangular; this is the triangular one of the covariance.
        upper = jnp.linalg.qr(scale.T, mode="r")
        scale = jnp.where(jnp.diag(upper) < 0, -upper.T, upper.T)
    return Gaussian(loc, scale)


def _independent(guide: AutoNormal, params: dict[str, Any], packing: Packing) -> Gaussian:
    def pack(name: str) -> Array:
        return packing.pack(
            {site: params[f"{site}_{guide.prefix}_{name}"] for site in packing.shapes}
        )

    return Gaussian(pack("loc"), pack("scale"))


def pathfinder_start(
    key: Array,
    potential_fn: Callable[[dict[str, Array]], Array],
    trace: Trace,
    packing: Packing,
    loc: Array,
    scale: float,
) -> Gaussian:
    """The Gaussian that Pathfinder finds. If the model subsamples its data, it is for all of them.

    Args:
      key: PRNG key.
      potential_fn: minus the log-density, a function of unconstrained values by site.
      trace: a trace of the model, for its plates.
      packing: how the values make a vector.
      loc: where to start.
      scale: standard deviations of a Gaussian around ``loc``, which is the result if Pathfinder
        finds no finite density.
    """
    # The seed is for models that draw minibatches.
    seeded = handlers.seed(potential_fn, 0)

    def of_all_data(latent: Array) -> Array:
        return OtherRows(seeded, _more_rows(trace))(packing.unpack(latent))

    def of_given_data(latent: Array) -> Array:
        return seeded(packing.unpack(latent))

    with handlers.block():
        potential = of_all_data
        try:
            jax.eval_shape(potential, loc)
        except (TypeError, ValueError):  # the model is given only the rows of a minibatch
            potential = of_given_data
        found = jax.jit(lambda key, x: pathfinder(key, potential, x))(key, loc)
    is_finite = jnp.isfinite(found.loc).all() & jnp.isfinite(found.scale).all()
    width = jnp.full(loc.shape, scale)
    plain = Gaussian(loc, width if found.scale.ndim == 1 else jnp.diag(width))
    return jax.tree.map(lambda x, y: jnp.where(is_finite, x, y), found, plain)


def _more_rows(trace: Trace) -> dict[str, Array | int]:
    """The elements of each subsampled plate for Pathfinder: all, or a number to draw at random."""
    sizes = {name: pair for name, pair in plate_sizes(trace).items() if pair[0] != pair[1]}
    # Plates may be nested, and their sizes multiply.
    limit = int(MAX_ROWS ** (1 / max(len(sizes), 1)))
    return {
        name: jnp.arange(size) if size <= max(limit, num) else max(limit, num)
        for name, (size, num) in sizes.items()
    }
