"""Bases with another scale, for samples closer to the mode or further away from it."""

from __future__ import annotations

from typing import Any

import numpyro.distributions as dist

from flowdists.bases.description import unwrap, wrap
from flowdists.bases.standard import StandardLogistic, StandardNormal

WITH_SCALE = dist.Cauchy | dist.Gumbel | dist.Laplace | dist.Logistic | dist.Normal | dist.StudentT


def temper(base: dist.Distribution, temperature: Any) -> dist.Distribution:
    """``base`` with its scale multiplied by ``temperature``.

    The result does not validate its arguments: a temperature of 0, at which every sample is the
    mode, is allowed.

    Raises:
      TypeError: if the base has no scale.
    """
    bare, wrappers = unwrap(base)
    return wrap(_scaled(bare, temperature), wrappers)


def _scaled(base: dist.Distribution, factor: Any) -> dist.Distribution:
    if isinstance(base, StandardNormal | StandardLogistic):
        scaled = base.family(0.0, factor, validate_args=False)
        return scaled.expand(base.shape()).to_event(base.event_dim)
    if isinstance(base, dist.MultivariateNormal):
        scale_tril = base.scale_tril * factor
        return dist.MultivariateNormal(base.loc, scale_tril=scale_tril, validate_args=False)
    if isinstance(base, WITH_SCALE):
        arguments = base.get_args()
        arguments["scale"] = arguments["scale"] * factor
        return type(base)(**arguments, validate_args=False)
    raise TypeError(
        "with_temperature: the base must have a scale (normal, Student-t, Laplace, ...), got "
        f"{type(base).__name__}"
    )
