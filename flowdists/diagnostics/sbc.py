"""Simulation-based calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from flowdists import _check
from flowdists._model_sites import Values, latent_and_observed, values_of

Array = jax.Array
Quantities = Callable[[Values, Values], Mapping[str, Any]]


def sbc_ranks(
    key: Array,
    model: Callable[..., Any],
    posterior: Callable[[Array, Values], Mapping[str, Any]],
    *args: Any,
    observed: str | Sequence[str],
    latents: str | Sequence[str] | None = None,
    num_simulations: int = 200,
    num_draws: int = 100,
    vectorized: bool = False,
    batch_size: int = 100,
    quantities: Quantities | None = None,
    **kwargs: Any,
) -> dict[str, np.ndarray]:
    """Ranks of simulated parameters among draws from the posterior given their data.

    Simulation-based calibration (SBC; Talts, Betancourt, Simpson, Vehtari and Gelman 2018,
    https://arxiv.org/abs/1804.06788). Parameters and data are drawn from the model many times. If
    ``posterior`` samples from the posterior distribution, the rank of each parameter among its
    draws is uniform on 0, ..., ``num_draws``. :func:`~flowdists.uniformity_pvalues` tests that.
    Histograms of the ranks say more: ranks pile up at both ends if the posterior is too narrow, in
    the middle if it is too wide, and at the upper end if it is too low.

    The ranks of the parameters cannot tell the posterior from the prior. The ranks of
    ``quantities`` that also depend on the data can, above all the rank of the joint log-density
    (Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman and Vehtari 2023,
    https://arxiv.org/abs/2211.02383)::

        def quantities(latents, data):
            joint = handlers.condition(model, data)
            return {"log_joint": numpyro.infer.util.log_density(joint, (), {}, latents)[0]}

    Ties, as between discrete values, are broken at random. The draws must be independent: thin
    those of a Markov chain first, otherwise ranks pile up at the ends.

    Args:
      key: PRNG key.
      model: a NumPyro model; set its param sites by ``handlers.substitute``.
      posterior: ``(key, data) -> draws``, both dicts by site: the observed values, and
        ``num_draws`` independent draws of every site of ``latents``, ``(num_draws, *site_shape)``.
      *args: arguments of the model, with which it draws the ``observed`` sites.
      observed: the site, or sites, that are the data. All others are latent.
      latents: the latent sites that are ranked, by default all; ``posterior`` averages over the
        others.
      num_simulations: how many times parameters and data are drawn.
      num_draws: how many draws ``posterior`` returns. Histograms are even if this number plus one
        has many divisors, such as a power of two.
      vectorized: run all simulations in one compiled program; JAX must be able to trace
        ``posterior``, as it can an amortized one. Otherwise it is called once for each simulation.
      batch_size: if ``vectorized``, how many simulations are computed at a time. The ranks do not
        depend on it.
      quantities: ``(latents, data) -> dict`` of arrays to be ranked as well, of one draw of the
        sites of ``latents``; traced by JAX.
      **kwargs: keyword arguments of the model.

    Returns:
      Ranks by site of ``latents``, and by quantity, int arrays ``(num_simulations, *shape)``.

    Raises:
      TypeError: for arguments of the wrong kind.
      ValueError: if ``observed`` names no site that the model draws, or ``latents`` none of the
        others; if the model is conditioned on another site; if draws are missing or of the wrong
        shape, or if any are NaN.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("x", dist.Normal(z, 1))
    >>> def posterior(key, data):
    ...     return {"z": data["x"] / 2 + 0.5**0.5 * jax.random.normal(key, (100,))}
    >>> ranks = sbc_ranks(
    ...     jax.random.key(0), model, posterior, observed="x", vectorized=True
    ... )
    >>> ranks["z"].shape, bool(uniformity_pvalues(ranks, 100)["z"] > 0.001)
    ((200,), True)
    """
    caller = "sbc_ranks"
    key = _check.key(caller, key)
    num_simulations = _check.positive_int(caller, "num_simulations", num_simulations)
    num_draws = _check.positive_int(caller, "num_draws", num_draws)
    batch_size = _check.positive_int(caller, "batch_size", batch_size)
    _check.function(caller, "model", model)
    _check.function(caller, "posterior", posterior)

    @jax.jit
    def simulate(key: Array) -> tuple[Values, Values]:
        trace = handlers.trace(handlers.seed(model, key)).get_trace(*args, **kwargs)
        sites, data = latent_and_observed(caller, trace, observed, latents)
        return values_of(sites), values_of(data)

    @jax.jit
    def rank(key: Array, values: Values, data: Values, draws: Values) -> tuple[Values, Values]:
        if quantities is not None:
            values, draws = _add(quantities, values, data, draws)
        keys = jax.random.split(key, len(values))
        ranks = {n: rank_among(k, values[n], draws[n]) for n, k in zip(values, keys, strict=True)}
        undefined = {n: jnp.isnan(values[n]).any() | jnp.isnan(draws[n]).any() for n in values}
        return ranks, undefined

    def one(key: Array) -> tuple[Values, Values]:
        simulate_key, draw_key, rank_key = jax.random.split(key, 3)
        values, data = simulate(simulate_key)
        draws = _checked(posterior(draw_key, dict(data)), values, num_draws)
        return rank(rank_key, values, data, draws)

    keys = jax.random.split(key, num_simulations)
    if vectorized:
        batch_size = min(batch_size, num_simulations)
        ranks, undefined = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=batch_size))(keys)
    else:
        ranks, undefined = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(one, keys))
    for name, bad in undefined.items():
        if bad.any():
            raise ValueError(
                f"{caller}: {int(bad.sum())} of {num_simulations} simulations have NaN among the "
                f"draws of {name!r}, or in its true value; the first is at index "
                f"{int(bad.argmax())}"
            )
    return {name: np.asarray(value) for name, value in ranks.items()}


def rank_among(key: Array, value: Array, draws: Array) -> Array:
    """How many of the draws are below the value; draws equal to it are placed at random."""
    below = jnp.sum(draws < value, axis=0)
    equal = jnp.sum(draws == value, axis=0)
    return below + jax.random.randint(key, equal.shape, 0, equal + 1)


def _add(
    quantities: Quantities, values: Values, data: Values, draws: Values
) -> tuple[Values, Values]:
    """The values and the draws, with the quantities that are computed from each of them."""
    computed = dict(quantities(values, data))
    if shared := sorted(computed.keys() & values.keys()):
        raise ValueError(
            f"sbc_ranks: `quantities` must have names of their own, got those of the sites {shared}"
        )
    return values | computed, draws | jax.vmap(lambda z: dict(quantities(z, data)))(draws)


def _checked(draws: Any, values: Values, num_draws: int) -> Values:
    """What ``posterior`` returned, for the sites of ``values``."""
    if not isinstance(draws, Mapping):
        raise TypeError(
            "sbc_ranks: `posterior` must return a dict of draws by site, got "
            f"{type(draws).__name__}"
        )
    missing = [name for name in values if name not in draws]
    if missing:
        raise ValueError(
            "sbc_ranks: `posterior` must return draws of every latent site, or of those named in "
            f"`latents`, got none of {missing}"
        )
    for name, value in values.items():
        given, expected = jnp.shape(draws[name]), (num_draws, *jnp.shape(value))
        if given != expected:
            raise ValueError(
                f"sbc_ranks: `posterior` returned draws of {name!r} of shape {given}, expected "
                f"(num_draws, *site_shape) = {expected}"
            )
    return {name: jnp.asarray(draws[name]) for name in values}
