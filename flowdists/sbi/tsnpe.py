"""Truncated sequential neural posterior estimation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.recipes import NSF
from flowdists.sbi.conditional_site_flow import ConditionalSiteFlow
from flowdists.sbi.estimation import (
    Invalid,
    Options,
    finite_rows,
    train,
    untrained,
    with_embedding,
)
from flowdists.sbi.simulator import CHUNK, Simulator
from flowdists.training import History

Array = jax.Array
REGION_DRAWS = 10_000
MAX_PROPOSALS = 1_000_000  # draws from the prior for each one that is kept


class TSNPEResult(NamedTuple):
    """What :func:`~flowdists.tsnpe` learned.

    Attributes:
      flow: the posterior, by site. Use it for the observation that it was learned for.
      histories: the losses of the fit in each round.
      acceptance: in each round, the fraction of draws from the prior that were in the region;
        1 in the first round.
    """

    flow: ConditionalSiteFlow
    histories: tuple[History, ...]
    acceptance: tuple[float, ...]


def tsnpe(
    key: Array,
    model: Callable[..., Any],
    data: Any,
    *args: Any,
    observed: str | Sequence[str],
    latents: str | Sequence[str] | None = None,
    num_rounds: int = 5,
    num_simulations: int = 2_000,
    outside: float = 1e-4,
    invalid: Invalid = "error",
    flow: Callable[..., ConditionalFlow] = NSF,
    flow_options: Options | None = None,
    embedding: Any = None,
    fit_options: Options | None = None,
    **kwargs: Any,
) -> TSNPEResult:
    r"""Learn the posterior for one observation, with fewer simulations than for all data.

    Truncated sequential neural posterior estimation (TSNPE; Deistler, Gonçalves and Macke 2022,
    https://arxiv.org/abs/2210.04815). Each round truncates the prior to the highest-density region
    that holds all but ``outside`` of the current posterior, simulates from the truncated prior, and
    trains the same flow further on all simulations whose parameters are in that region.

    The regions are nested. The parameters that a round trains on are therefore distributed as the
    prior truncated to the latest region, and maximum likelihood needs no correction. Parameters
    outside of the region are drawn and thrown away without simulating their data.

    Args:
      key: PRNG key.
      model: as in :func:`~flowdists.npe`.
      data: the observation: values by site, or the value itself if there is only one site.
      *args: arguments of the model.
      observed: the site, or sites, that are the data.
      latents: the latent sites of interest, by default all.
      num_rounds: how many rounds; the first simulates from the prior.
      num_simulations: how many simulations each round makes.
      outside: posterior probability that a region may leave out.
      invalid: as in :func:`~flowdists.npe`.
      flow: as in :func:`~flowdists.npe`.
      flow_options: as in :func:`~flowdists.npe`.
      embedding: as in :func:`~flowdists.npe`.
      fit_options: as in :func:`~flowdists.npe`.
      **kwargs: keyword arguments of the model.

    Returns:
      A named tuple: the posterior ``flow``, a :class:`~flowdists.ConditionalSiteFlow`; the
      ``histories`` of the fits; and the ``acceptance`` rates.

    Raises:
      TypeError: as in :func:`~flowdists.npe`.
      ValueError: as in :func:`~flowdists.npe`; if ``outside`` is not a probability below 0.5; if
        ``data`` is not one observation, or not finite.
      RuntimeError: if the region is too small a fraction of the prior for draws to find it.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     loc = numpyro.sample("loc", dist.Uniform(-10.0, 10.0))
    ...     numpyro.sample("x", dist.Normal(loc, 0.5))
    >>> posterior, *_ = tsnpe(
    ...     jax.random.key(0),
    ...     model,
    ...     {"x": 3.0},
    ...     observed="x",
    ...     num_rounds=2,
    ...     num_simulations=200,
    ...     flow=MAF,
    ...     flow_options={"num_layers": 1, "hidden_sizes": (8,)},
    ...     fit_options={"max_epochs": 2, "progress": False},
    ... )
    >>> posterior.sample(jax.random.key(1), {"x": 3.0}, (5,))["loc"].shape
    (5,)
    """
    caller = "tsnpe"
    key = _check.key(caller, key)
    num_rounds = _check.positive_int(caller, "num_rounds", num_rounds)
    num_simulations = _check.positive_int(caller, "num_simulations", num_simulations)
    if not 0 < _check.positive(caller, "outside", outside) < 0.5:
        raise ValueError(f"{caller}: `outside` must be a probability below 0.5, got {outside}")
    _check.one_of(caller, "invalid", invalid, get_args(Invalid))
    simulator = Simulator(model, *args, observed=observed, latents=latents, **kwargs)
    flow_key, *round_keys = jax.random.split(key, 1 + num_rounds)
    options = with_embedding(flow_options, embedding)
    posterior = untrained(
        caller, flow_key, flow, options, simulator.latents, simulator.data, simulator.support
    )
    observation = _observation(caller, posterior, data)
    histories: list[History] = []
    acceptance: list[float] = []
    regions: list[_Region] = []
    theta = jnp.zeros((0, simulator.latents.size))
    x = jnp.zeros((0, simulator.data.size))
    fit_options = dict(fit_options or {})
    for round_key in round_keys:
        region_key, simulate_key, fit_key = jax.random.split(round_key, 3)
        if histories:
            # Layers that are initialized from data are so in the first round only.
            fit_options["data_init"] = False
            current = posterior.flow.condition(observation)
            regions.append(_highest_density_region(region_key, current, outside))
            kept = np.asarray(_contains(regions[-1], theta))
            theta, x = theta[kept], x[kept]
        keys, accepted = _keys_within(simulate_key, simulator, regions, num_simulations)
        # The same keys give the same latent values again, also at the sites of no interest.
        new = finite_rows(caller, simulator, *simulator.draw_each(keys), invalid)
        theta, x = jnp.concatenate([theta, new[0]]), jnp.concatenate([x, new[1]])
        posterior, history = train(fit_key, posterior, theta, x, fit_options)
        histories.append(history)
        acceptance.append(accepted)
    return TSNPEResult(posterior, tuple(histories), tuple(acceptance))


def _observation(caller: str, posterior: ConditionalSiteFlow, data: Any) -> Array:
    """The data as one context of the flow."""
    context = posterior.context(caller, data)
    batch = context.shape[: context.ndim - len(posterior.flow.context_shape)]
    if batch:
        raise ValueError(f"{caller}: `data` must be one observation, got a batch of shape {batch}")
    if not np.isfinite(np.asarray(context)).all():
        raise ValueError(f"{caller}: `data` must be finite, got NaN or infinity in it")
    return context


class _Region(NamedTuple):
    """The parameters where the density of a posterior is above a threshold."""

    posterior: Flow
    threshold: Array


@jax.jit
def _highest_density_region(key: Array, posterior: Flow, outside: float) -> _Region:
    """The smallest region that holds all but ``outside`` of the posterior."""
    _, log_prob = posterior.sample_and_log_prob(key, (REGION_DRAWS,))
    return _Region(posterior, jnp.quantile(log_prob, outside))


@jax.jit
def _contains(region: _Region, theta: Array) -> Array:
    return region.posterior.log_prob(theta) >= region.threshold


def _keys_within(
    key: Array, simulator: Simulator, regions: list[_Region], num_draws: int
) -> tuple[Array, float]:
    """Keys whose latent vectors are in all regions, and the fraction of all keys that are so."""
    if not regions:
        return jax.random.split(key, num_draws), 1.0
    size = max(num_draws, CHUNK)
    kept: list[Array] = []
    count = proposed = 0
    while count < num_draws:
        key, proposals_key = jax.random.split(key)
        keys = jax.random.split(proposals_key, size)
        theta = simulator.draw_latents(keys)
        inside = np.all([_contains(region, theta) for region in regions], axis=0)
        kept.append(keys[np.flatnonzero(inside)])
        count += len(kept[-1])
        proposed += size
        if proposed >= MAX_PROPOSALS * max(count, 1):
            raise RuntimeError(
                f"tsnpe: only {count} of {proposed} draws of the prior were in the region of the "
                "posterior; use fewer rounds, or a narrower prior"
            )
    return jnp.concatenate(kept)[:num_draws], count / proposed
