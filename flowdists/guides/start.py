"""The Gaussian that one of NumPyro's guides has become, as a start for another guide."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.infer.autoguide import (
    AutoContinuous,
    AutoDiagonalNormal,
    AutoGuide,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

from flowdists.guides.pathfinder import Start

Array = jax.Array

_JOINT = (
    AutoDiagonalNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)


def check_gaussian(caller: str, guide: Any) -> AutoGuide:
    """``guide``, if it is one of NumPyro's Gaussian ones and has been run.

    Raises:
      TypeError: if it is another.
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
    return guide


def gaussian_start(guide: AutoGuide, params: dict[str, Any]) -> Callable[[Sequence[str]], Start]:
    """The Gaussian of ``guide``, as a function of the order of the unconstrained sites."""
    if isinstance(guide, AutoNormal):
        return functools.partial(_independent, guide, params)
    # Found now, because for that AutoLaplaceApproximation runs the model.
    return functools.partial(_reordered, guide, _joint(guide, params))


def ravel(values: dict[str, Array]) -> Array:
    """The values of sites, concatenated."""
    return jnp.concatenate([jnp.ravel(value) for value in values.values()] or [jnp.zeros(0)])


def _joint(guide: AutoContinuous, params: dict[str, Any]) -> Start:
    posterior = guide.get_posterior(params)
    is_diagonal = isinstance(posterior, dist.Normal)
    return Start(posterior.loc, posterior.scale if is_diagonal else posterior.scale_tril)


def _reordered(guide: AutoContinuous, start: Start, sites: Sequence[str]) -> Start:
    """``start``, in the order of ``guide``'s own sites, in that of ``sites``."""
    positions = guide._unpack_latent(jnp.arange(start.loc.size))
    order = ravel({site: positions[site] for site in sites})
    loc, scale = start.loc[order], start.scale[order]
    if scale.ndim == 2:
        # Any factor of the covariance, turned into the triangular one.
        upper = jnp.linalg.qr(scale.T, mode="r")
        scale = jnp.where(jnp.diag(upper) < 0, -upper.T, upper.T)
    return Start(loc, scale)


def _independent(guide: AutoNormal, params: dict[str, Any], sites: Sequence[str]) -> Start:
    def part(name: str) -> Array:
        return ravel({site: params[f"{site}_{guide.prefix}_{name}"] for site in sites})

    return Start(part("loc"), part("scale"))
