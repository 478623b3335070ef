"""A guide's posterior in ArviZ's container."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.diagnostics import _arviz
from flowdists.diagnostics._scoring import Trace, draw

Array = jax.Array


def to_arviz(
    key: Array,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    params: dict[str, Any],
    *args: Any,
    num_samples: int = 4000,
    num_chains: int = 4,
    batch_size: int | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    **kwargs: Any,
) -> Any:
    """Draws from a guide, for ArviZ's summaries, plots and model comparison.

    The draws are independent. Dividing them into chains therefore changes nothing, and what ArviZ
    says of convergence is that there is nothing to converge; how close the guide is to the
    posterior, :func:`~flowdists.importance_sampling` tells.

    Groups, each with the axes ``chain`` and ``draw`` first (``observed_data`` has neither):

    * ``posterior``: latent and deterministic sites.
    * ``sample_stats``: in nats, ``lp``, the log joint density of the model; ``log_q``, that of the
      guide; ``log_weight``, their difference, the log importance weight. In ArviZ 1,
      ``loo_approximate_posterior`` takes the first two, and so corrects for the guide, which
      ``loo`` does not.
    * ``log_likelihood``: of every observation, by observed site.
    * ``posterior_predictive``: every observed site drawn anew, given the latent values (and the
      data, where the model makes one observation depend on another); left out if its distribution
      cannot be sampled.
    * ``observed_data``: the data.

    Axes that belong to a plate are called like it. The rules for guides are those of
    :func:`~flowdists.importance_sampling`.

    Args:
      key: PRNG key.
      model: a NumPyro model, with its data given; plates hold all of their rows.
      guide: its guide. It draws every latent site of the model.
      params: values of the param sites of both, as from ``svi.get_params(state)``.
      *args: arguments of both.
      num_samples: how many draws, in all chains together.
      num_chains: how many chains they are divided into.
      batch_size: how many draws are computed at a time, to save memory; all by default.
      coords: labels by axis, as ArviZ takes them.
      dims: names of axes by site, as ArviZ takes them, in place of the plates'.
      **kwargs: keyword arguments of both.

    Returns:
      An ``arviz.InferenceData`` (ArviZ 0.x) or an ``xarray.DataTree`` (from 1.0 on).

    Raises:
      TypeError: for arguments of the wrong kind.
      ValueError: if ``num_chains`` does not divide ``num_samples``; and as
        :func:`~flowdists.importance_sampling` does.
      FloatingPointError: likewise.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model(x):
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     with numpyro.plate("row", len(x)):
    ...         numpyro.sample("x", dist.Normal(z, 1), obs=x)
    >>> def guide(x):
    ...     numpyro.sample("z", dist.Normal(x.sum() / (1 + len(x)), (1 + len(x)) ** -0.5))
    >>> data = to_arviz(jax.random.key(0), model, guide, {}, jnp.array([0.5, 1.5, 1.0]))
    >>> data.posterior["z"].shape, data.log_likelihood["x"].dims
    ((4, 1000), ('chain', 'draw', 'row'))
    """
    num_samples = _check.positive_int("to_arviz", "num_samples", num_samples)
    num_chains = _check.positive_int("to_arviz", "num_chains", num_chains)
    if num_samples % num_chains:
        raise ValueError(
            f"to_arviz: `num_samples` must be a multiple of `num_chains`={num_chains}, got "
            f"{num_samples}"
        )
    draws = draw(
        "to_arviz",
        key,
        model,
        guide,
        params,
        args,
        kwargs,
        num_samples=num_samples,
        batch_size=batch_size,
        extra=_extra,
    )
    deterministic, log_likelihood, predictive = draws.extra
    groups = {
        "posterior": {**draws.latents, **deterministic},
        "sample_stats": {"lp": draws.log_p, "log_q": draws.log_q, "log_weight": draws.log_weights},
        "log_likelihood": log_likelihood,
        "posterior_predictive": predictive,
    }
    sampled = jax.tree.map(
        lambda value: np.reshape(value, (num_chains, -1, *np.shape(value)[1:])), groups
    )
    data = {n: np.asarray(site["value"]) for n, site in _observed_sites(draws.trace).items()}
    return _arviz.container(
        {**sampled, "observed_data": data}, coords, {**_plate_dims(draws.trace), **(dims or {})}
    )


def _observed_sites(trace: Trace) -> Trace:
    """The sites with data; factors have none."""
    return {
        name: site
        for name, site in trace.items()
        if site["type"] == "sample" and site["is_observed"] and jnp.size(site["value"])
    }


def _extra(trace: Trace, key: Array) -> tuple[dict[str, Array], ...]:
    """Deterministic values, pointwise log-likelihoods and new observations at one draw."""
    deterministic = {
        name: site["value"] for name, site in trace.items() if site["type"] == "deterministic"
    }
    observed = _observed_sites(trace)
    log_likelihood = {n: site["fn"].log_prob(site["value"]) for n, site in observed.items()}
    predictive = {}
    for name, subkey in zip(observed, jax.random.split(key, len(observed)), strict=True):
        # Data may have more axes than the distribution, which stands for independent copies then.
        copies = observed[name]["fn"].expand(jnp.shape(log_likelihood[name]))
        with contextlib.suppress(NotImplementedError):
            predictive[name] = copies.sample(subkey)
    return deterministic, log_likelihood, predictive


def _plate_dims(trace: Trace) -> dict[str, list[str]]:
    """Names of the first axes of every site whose first axes are exactly those of its plates.

    ArviZ names the others.
    """
    names = {}
    for name, site in trace.items():
        if site["type"] in ("sample", "deterministic") and site["cond_indep_stack"]:
            frames = sorted(site["cond_indep_stack"], key=lambda frame: frame.dim)
            plates = [frame.name for frame in frames]
            exact = jnp.shape(site["value"])[: len(frames)] == tuple(f.size for f in frames)
            if exact and not {"chain", "draw"} & set(plates):
                names[name] = plates
    return names
