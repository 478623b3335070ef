"""Posterior estimation for one observation, in rounds that simulate where it matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.distribution import ConditionalFlow, Flow
from flowdists.recipes import NSF
from flowdists.sbi.amortize import REMEDY, Options, fit_to, new_posterior
from flowdists.sbi.conditional import SiteFlow
from flowdists.sbi.invalid import INVALID, Invalid, finite_rows
from flowdists.sbi.simulator import CHUNK, Simulator
from flowdists.training import History

Array = jax.Array
REGION_DRAWS = 10_000
MOST_PROPOSALS = 1_000_000  # draws of the prior for each one that is kept, at most


class Truncated(NamedTuple):
    """What was learned in rounds.

    Attributes:
      flow: the posterior, by site; to be trusted for the observation that it was made for.
      histories: the losses of each round's fit.
      acceptance: for each round, the part of the prior's draws that were in the region which is
        left; 1 at first.
    """

    flow: SiteFlow
    histories: tuple[History, ...]
    acceptance: tuple[float, ...]


def amortize_truncated(
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
) -> Truncated:
    r"""Learn the posterior for one observation, with fewer simulations than for all.

    Truncated sequential neural posterior estimation (Deistler, Gonçalves and Macke 2022): each
    round simulates from the prior restricted to the region that holds all but ``outside`` of the
    posterior found so far, and fits the flow, further from where it was, to all simulations within
    that region. Each region lies within the last, so that all of these have the prior truncated to
    it for their distribution: plain maximum likelihood remains right, and the flow needs no
    correction. Only parameters within the region are simulated; others are drawn and thrown away.

    Args:
      key: PRNG key.
      model: as in :func:`~flowdists.amortize`.
      data: the observation: values by site, or of an only site the value itself.
      *args: arguments of the model.
      observed: the site, or sites, that are the data.
      latents: the latent sites of interest, all of them unless given.
      num_rounds: how many rounds; the first simulates from the prior.
      num_simulations: in each round.
      outside: posterior probability that a region may leave out.
      invalid: as in :func:`~flowdists.amortize`.
      flow: as in :func:`~flowdists.amortize`.
      flow_options: as in :func:`~flowdists.amortize`.
      embedding: as in :func:`~flowdists.amortize`.
      fit_options: as in :func:`~flowdists.amortize`.
      **kwargs: keyword arguments of the model.

    Returns:
      A named tuple: the ``flow``, the ``histories`` of the fits, and ``acceptance``.

    Raises:
      TypeError: as in :func:`~flowdists.amortize`.
      ValueError: as in :func:`~flowdists.amortize`; if ``outside`` is not a probability below 0.5;
        if ``data`` is not one observation, or not finite.
      RuntimeError: if the region is too small a part of the prior to be found by draws from it.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     loc = numpyro.sample("loc", dist.Uniform(-10.0, 10.0))
    ...     numpyro.sample("x", dist.Normal(loc, 0.5))
    >>> posterior, *_ = amortize_truncated(
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
    caller = "amortize_truncated"
    key = _check.key(caller, key)
    num_rounds = _check.positive_int(caller, "num_rounds", num_rounds)
    num_simulations = _check.positive_int(caller, "num_simulations", num_simulations)
    if not 0 < _check.positive(caller, "outside", outside) < 0.5:
        raise ValueError(f"{caller}: `outside` must be a probability below 0.5, got {outside}")
    _check.one_of(caller, "invalid", invalid, INVALID)
    simulator = Simulator(model, *args, observed=observed, latents=latents, **kwargs)
    flow_key, *round_keys = jax.random.split(key, 1 + num_rounds)
    posterior = new_posterior(flow_key, simulator, flow, flow_options, embedding)
    context = posterior.context(caller, data)
    if context.shape != posterior.flow.context_shape:
        raise ValueError(
            f"{caller}: `data` must be one observation, got a batch of shape "
            f"{context.shape[: context.ndim - len(posterior.flow.context_shape)]}"
        )
    if not np.isfinite(np.asarray(context)).all():
        raise ValueError(f"{caller}: `data` must be finite, got NaN or infinity in it")
    histories: list[History] = []
    acceptance: list[float] = []
    regions: list[_Region] = []
    theta = jnp.zeros((0, simulator.latents.size))
    x = jnp.zeros((0, simulator.data.size))
    for i, round_key in enumerate(round_keys):
        region_key, simulate_key, fit_key = jax.random.split(round_key, 3)
        if i:
            regions.append(_Region(region_key, posterior.flow, context, outside))
            kept = np.asarray(regions[-1].holds(theta))
            theta, x = theta[kept], x[kept]
        keys, accepted = _keys_within(simulate_key, simulator, regions, num_simulations)
        # From the same keys come the same latent values, those of other sites among them.
        new = simulator.draw_each(keys)
        new_theta, new_x = finite_rows(caller, simulator, *new, invalid, REMEDY)
        theta, x = jnp.concatenate([theta, new_theta]), jnp.concatenate([x, new_x])
        # Layers that start from data do so in the first round alone: later ones train on.
        options = {**(fit_options or {}), **({"data_init": False} if i else {})}
        result = fit_to(fit_key, posterior, theta, x, options)
        posterior = posterior.replace(flow=result.flow)
        histories.append(result.history)
        acceptance.append(accepted)
    return Truncated(posterior, tuple(histories), tuple(acceptance))


class _Region:
    """The smallest region that holds all but ``outside`` of a posterior, by its density."""

    def __init__(self, key: Array, flow: ConditionalFlow, context: Array, outside: float) -> None:
        self._posterior = flow.condition(context)
        self._least = jnp.quantile(_log_prob_of_draws(self._posterior, key), outside)

    def holds(self, theta: Array) -> Array:
        return _log_prob(self._posterior, theta) >= self._least


@jax.jit
def _log_prob_of_draws(posterior: Flow, key: Array) -> Array:
    return posterior.sample_and_log_prob(key, (REGION_DRAWS,))[1]


@jax.jit
def _log_prob(posterior: Flow, theta: Array) -> Array:
    return posterior.log_prob(theta)


def _keys_within(
    key: Array, simulator: Simulator, regions: list[_Region], num_draws: int
) -> tuple[Array, float]:
    """Keys whose draws have latent vectors within all regions, and the part of all that do."""
    if not regions:
        return jax.random.split(key, num_draws), 1.0
    size = max(num_draws, CHUNK)
    kept: list[Array] = []
    count = proposed = 0
    while count < num_draws:
        key, proposals_key = jax.random.split(key)
        keys = jax.random.split(proposals_key, size)
        theta = simulator.draw_latents(keys)
        inside = np.all([region.holds(theta) for region in regions], axis=0)
        kept.append(keys[np.flatnonzero(inside)])
        count += len(kept[-1])
        proposed += size
        if proposed >= MOST_PROPOSALS * max(count, 1):
            raise RuntimeError(
                f"amortize_truncated: only {count} of {proposed} draws of the prior were in the "
                "region of the posterior; use fewer rounds, or a prior that is not so wide"
            )
    return jnp.concatenate(kept)[:num_draws], count / proposed
