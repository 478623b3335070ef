"""What NPE, NLE and TSNPE have in common: valid simulations, an untrained flow, and its fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from flowdists.conditional_flow import ConditionalFlow
from flowdists.recipes import NSF
from flowdists.sbi.conditional_site_flow import ConditionalSiteFlow
from flowdists.sbi.simulator import Simulator
from flowdists.sbi.sites import Sites
from flowdists.training import History, fit

Array = jax.Array
Options = Mapping[str, Any]
Invalid = Literal["error", "drop"]

MIN_VALID = 0.01  # with a smaller fraction of valid simulations there is too little to learn from
FIT_OPTIONS: Options = {"patience": 20}
# The best of a few settings by their held-out densities on two moons and SLCP.
NSF_OPTIONS: Options = {"autoregressive": True, "residual": True}
REMEDY = (
    'correct the model, or leave such simulations out by `invalid="drop"`: the posterior given '
    "finite data is the same without them"
)


class SBIResult(NamedTuple):
    """What :func:`~flowdists.npe` or :func:`~flowdists.nle` learned.

    Attributes:
      flow: the posterior, or the likelihood, by site.
      history: the losses of the fit.
    """

    flow: ConditionalSiteFlow
    history: History


def finite_rows(
    caller: str,
    simulator: Simulator,
    theta: Array,
    x: Array,
    invalid: Invalid = "error",
    remedy: str = REMEDY,
) -> tuple[Array, Array]:
    """The simulations whose data are finite.

    Args:
      caller: name of the caller, for error messages; warnings point to the code that called it.
      simulator: the origin of the simulations.
      theta: latent vectors.
      x: data vectors.
      invalid: whether other simulations are an error, or are left out.
      remedy: what to do about the error.

    Raises:
      ValueError: if a latent value is not finite; if data are not, and that is an error; or if
        nearly all simulations would be left out.
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
    if valid.sum() < max(2, MIN_VALID * len(x)):
        raise ValueError(
            f"{caller}: too few simulations have finite data: {valid.sum()} of {len(x)} are left; "
            f"there is NaN or infinity {broken}"
        )
    warnings.warn(
        f"{caller}: {1 - valid.mean():.2%} of the simulations were left out, because their data "
        f"are NaN or infinite {broken}",
        RuntimeWarning,
        stacklevel=3,
    )
    return theta[valid], x[valid]


def _not_finite(sites: Sites, vectors: Array) -> str:
    """Which sites have values that are not finite, and how often; empty if there are none."""
    counts = {}
    for name, values in sites.unpack(vectors).items():
        finite = np.isfinite(np.asarray(values).reshape(len(values), -1)).all(axis=1)
        counts[name] = int((~finite).sum())
    return " and ".join(
        f"in {name!r} in {count} of {len(vectors)} simulations"
        for name, count in counts.items()
        if count
    )


def untrained(
    caller: str,
    key: Array,
    flow: Any,
    options: Options | None,
    events: Sites,
    contexts: Sites,
    support: Any,
) -> ConditionalSiteFlow:
    """The flow that a recipe makes for some sites given others.

    Args:
      caller: name of the caller, for error messages.
      key: PRNG key.
      flow: the recipe.
      options: options of the recipe. An ``embedding`` takes contexts in their own shape, and
        otherwise the flow takes them as one vector.
      events: the sites whose density the flow is.
      contexts: the sites that the density is given.
      support: a NumPyro constraint of the vector of events; None if it is unbounded.

    Raises:
      TypeError: if ``flow`` is not a function, or returns something else than a flow.
    """
    if not callable(flow):
        raise TypeError(
            f"{caller}: `flow` must be a recipe such as flowdists.NSF, got {type(flow).__name__}"
        )
    options = {**(NSF_OPTIONS if flow is NSF else {}), **(options or {})}
    if support is not None:
        options.setdefault("support", support)
    options.setdefault(
        "context_shape", contexts.shape if "embedding" in options else (contexts.size,)
    )
    made = flow(key, (events.size,), **options)
    if not isinstance(made, ConditionalFlow):
        raise TypeError(f"{caller}: `flow` must make a ConditionalFlow, got {type(made).__name__}")
    return ConditionalSiteFlow(made, events, contexts)


def with_embedding(options: Options | None, embedding: Any) -> Options:
    """Options of a recipe, with an embedding if there is one."""
    return {**(options or {}), **({} if embedding is None else {"embedding": embedding})}


def train(
    key: Array, flow: ConditionalSiteFlow, events: Array, contexts: Array, options: Options | None
) -> SBIResult:
    """Fit a flow to vectors of events and of contexts."""
    contexts = contexts.reshape(len(contexts), *flow.flow.context_shape)
    fitted, history = fit(
        key, flow.flow, events, context=contexts, **{**FIT_OPTIONS, **(options or {})}
    )
    return SBIResult(flow.replace(flow=fitted), history)
