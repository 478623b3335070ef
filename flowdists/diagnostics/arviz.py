"""Draws from a guide in the containers of ArviZ."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists._model_sites import Trace
from flowdists.diagnostics._scoring import draw

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
    """Draws from a guide, for the summaries, plots and model comparison of ArviZ.

    The draws are independent, so that it does not matter how they are divided into chains. The
    convergence statistics of ArviZ therefore say nothing about the guide. To see how close it is to
    the posterior, use :func:`~flowdists.importance_sampling`.

    Groups, each with the axes ``chain`` and ``draw`` first (``observed_data`` has neither):

    * ``posterior``: latent and deterministic sites.
    * ``sample_stats``, in nats: ``lp``, the log joint density of the model; ``log_q``, the
      log-density of the guide; ``log_weight``, their difference, the log importance weight. In
      ArviZ 1, ``loo_approximate_posterior`` takes the first two and corrects for the guide; ``loo``
      does not correct.
    * ``log_likelihood``: of every observation, by observed site.
    * ``posterior_predictive``: every observed site drawn anew, given the latent values (and given
      the data, where one observation depends on another in the model). A site whose distribution
      cannot be sampled is left out.
    * ``observed_data``: the data.

    Axes that belong to a plate have its name. Guides must be as for
    :func:`~flowdists.importance_sampling`.

    Args:
      key: PRNG key.
      model: a NumPyro model, with its data given; plates hold all of their rows.
      guide: its guide. It draws every latent site of the model.
      params: values of the param sites of both, as from ``svi.get_params(state)``.
      *args: arguments of both.
      num_samples: how many draws in all chains together.
      num_chains: how many chains they are divided into.
      batch_size: how many draws are computed at a time, to save memory; by default all.
      coords: labels by axis, as in ArviZ.
      dims: names of axes by site, as in ArviZ, instead of the names of plates.
      **kwargs: keyword arguments of both.

    Returns:
      An ``arviz.InferenceData`` (ArviZ 0.x) or an ``xarray.DataTree`` (from 1.0 on).

    Raises:
      TypeError: for arguments of the wrong kind.
      ValueError: if ``num_chains`` does not divide ``num_samples``; and as
        :func:`~flowdists.importance_sampling` does.
      FloatingPointError: as :func:`~flowdists.importance_sampling` does.

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
        "to_arviz", key, model, guide, params, args, kwargs, num_samples, batch_size, _extra
    )
    deterministic, log_likelihood, predictive = draws.extra
    sampled = {
        "posterior": {**draws.latents, **deterministic},
        "sample_stats": {"lp": draws.log_p, "log_q": draws.log_q, "log_weight": draws.log_weights},
        "log_likelihood": log_likelihood,
        "posterior_predictive": predictive,
    }
    chains = jax.tree.map(
        lambda value: np.reshape(value, (num_chains, -1, *np.shape(value)[1:])), sampled
    )
    observed = _observed_sites(draws.trace).items()
    data = {name: np.asarray(site["value"]) for name, site in observed}
    groups = {name: group for name, group in {**chains, "observed_data": data}.items() if group}
    names = {"coords": coords, "dims": {**_plate_dims(draws.trace), **(dims or {})}}
    arviz, is_legacy = load_arviz()
    return arviz.from_dict(**groups, **names) if is_legacy else arviz.from_dict(groups, **names)


def load_arviz() -> tuple[Any, bool]:
    """ArviZ, and whether it is a version 0.x, whose interface differs from that of later ones.

    It is imported when it is used, because its import takes longer than that of everything else.
    """
    import arviz

    return arviz, arviz.__version__.startswith("0.")


def _observed_sites(trace: Trace) -> Trace:
    """The sites with data, without factors."""
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
        # Data with more axes than the distribution are independent copies.
        copies = observed[name]["fn"].expand(jnp.shape(log_likelihood[name]))
        with contextlib.suppress(NotImplementedError):
            predictive[name] = copies.sample(subkey)
    return deterministic, log_likelihood, predictive


def _plate_dims(trace: Trace) -> dict[str, list[str]]:
    """Names of the first axes of every site whose first axes are exactly those of its plates.

    ArviZ names the other axes.
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
