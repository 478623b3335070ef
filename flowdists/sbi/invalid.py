"""Simulations whose data are NaN or infinite."""

from __future__ import annotations

import warnings
from typing import Literal

import jax
import numpy as np

from flowdists.sbi.simulator import Simulator
from flowdists.sbi.sites import Sites

Array = jax.Array
Invalid = Literal["error", "drop"]
INVALID = ("error", "drop")
LEAST_VALID = 0.01  # part of the simulations below which what is left says too little


def finite_rows(
    caller: str, simulator: Simulator, theta: Array, x: Array, invalid: Invalid, remedy: str
) -> tuple[Array, Array]:
    """The simulations with finite data: all of them, or what is left.

    Args:
      caller: what to call the caller in an error message; warnings point to who called it.
      simulator: where the simulations are from.
      theta: latent vectors.
      x: data vectors.
      invalid: whether others are an error, or are left out.
      remedy: what to do about the error.

    Raises:
      ValueError: for others, if they are an error or nearly all there is; for latent values that
        are not finite.
    """
    if broken := _not_finite(simulator.latents, theta):
        raise ValueError(
            f"{caller}: the prior must draw finite values, got NaN or infinity {broken}"
        )
    broken = _not_finite(simulator.data, x)
    if not broken:
        return theta, x
    if invalid == "error":
        raise ValueError(
            f"{caller}: the model must draw finite data, got NaN or infinity {broken}; {remedy}"
        )
    valid = np.isfinite(np.asarray(x)).all(axis=1)
    if valid.sum() < max(2, LEAST_VALID * len(x)):
        raise ValueError(
            f"{caller}: without simulations whose data are NaN or infinite, {valid.sum()} of "
            f"{len(x)} are left, too few to learn from; they are so {broken}"
        )
    warnings.warn(
        f"{caller}: {1 - valid.mean():.2%} of the simulations were left out: their data are NaN or "
        f"infinite, {broken}",
        RuntimeWarning,
        stacklevel=3,
    )
    return theta[valid], x[valid]


def _not_finite(sites: Sites, vectors: Array) -> str:
    """In which sites, and how often, values are not finite; empty if all are."""
    counts = {}
    for name, values in sites.unpack(vectors).items():
        rows = np.isfinite(np.asarray(values).reshape(len(values), -1)).all(axis=1)
        counts[name] = int((~rows).sum())
    return " and ".join(
        f"in {name!r} in {count} of {len(vectors)} simulations"
        for name, count in counts.items()
        if count
    )
