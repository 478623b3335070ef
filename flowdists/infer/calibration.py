"""Whether an inference method is calibrated over the prior: simulation-based calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from flowdists import _check
from flowdists._model_sites import split_trace, values_of

Array = jax.Array
Values = dict[str, Array]
_TIE = 1e-9  # tail probabilities that differ by less, relatively, are the same up to rounding


def calibration_ranks(
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
    quantities: Callable[[Values, Values], Mapping[str, Any]] | None = None,
    **kwargs: Any,
) -> dict[str, np.ndarray]:
    """Ranks of simulated parameters among the posterior draws that their data lead to.

    Parameters and data are drawn from the model, again and again. If ``posterior`` samples from
    the posterior distribution, the rank of each parameter among its draws is uniform on 0, ...,
    ``num_draws`` (Talts, Betancourt, Simpson, Vehtari and Gelman 2018, "Validating Bayesian
    inference algorithms with simulation-based calibration"); :func:`uniformity_pvalues` tests it.
    Histograms tell more: a posterior too narrow piles ranks up at both ends, too wide in the
    middle, too low at the upper end.

    The ranks of parameters cannot tell the posterior from the prior. Those of ``quantities`` that
    depend on the data as well can, above all of the joint log-density (Modrák, Moon, Kim,
    Bürkner, Huurre, Faltejsková, Gelman and Vehtari 2023, "Simulation-based calibration checking
    for Bayesian computation: the choice of test quantities shapes sensitivity")::

        def quantities(latents, data):
            joint = handlers.condition(model, data)
            return {"log_joint": numpyro.infer.util.log_density(joint, (), {}, latents)[0]}

    Ties, as between discrete values, are broken at random. The draws have to be independent:
    those of a Markov chain must be thinned first, or ranks pile up at the ends.

    Args:
      key: PRNG key.
      model: a NumPyro model; parameters of its own are given by ``handlers.substitute``.
      posterior: ``(key, data) -> draws``, both dicts by site: of the observed values, and of
        ``num_draws`` independent draws of every site of ``latents``, ``(num_draws, *site_shape)``.
      *args: arguments of the model, with which it draws the ``observed`` sites.
      observed: the site, or sites, that are the data. All others are latent.
      latents: the latent sites that are ranked, all of them unless given; ``posterior`` averages
        over the others.
      num_simulations: how many times parameters and data are drawn.
      num_draws: how many draws ``posterior`` returns; one less than a power of two, or than
        another number with many divisors, makes for even histograms.
      vectorized: run all simulations in one compiled program; ``posterior`` must be traceable by
        JAX, as an amortized one is. Otherwise it is called once for each simulation.
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
        others, if the model is conditioned on another, if draws are missing or of the wrong shape,
        or if any are NaN.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("x", dist.Normal(z, 1))
    >>> def posterior(key, data):
    ...     return {"z": data["x"] / 2 + 0.5**0.5 * jax.random.normal(key, (100,))}
    >>> ranks = calibration_ranks(
    ...     jax.random.key(0), model, posterior, observed="x", vectorized=True
    ... )
    >>> ranks["z"].shape, bool(uniformity_pvalues(ranks, 100)["z"] > 0.001)
    ((200,), True)
    """
    caller = "calibration_ranks"
    key = _check.key(caller, key)
    num_simulations = _check.positive_int(caller, "num_simulations", num_simulations)
    num_draws = _check.positive_int(caller, "num_draws", num_draws)
    batch_size = _check.positive_int(caller, "batch_size", batch_size)
    names = (observed,) if isinstance(observed, str) else tuple(observed)
    ranked = (latents,) if isinstance(latents, str) else latents
    for name, function in (("model", model), ("posterior", posterior)):
        if not callable(function):
            raise TypeError(f"{caller}: `{name}` must be a function, got {type(function).__name__}")

    @jax.jit
    def simulate(key: Array) -> tuple[Values, Values]:
        trace = handlers.trace(handlers.seed(model, key)).get_trace(*args, **kwargs)
        sites, data = split_trace(caller, trace, names)
        return _chosen(values_of(sites), ranked), values_of(data)

    def infer(key: Array, latents: Values, data: Values) -> Values:
        return _check_draws(posterior(key, dict(data)), latents, num_draws)

    @jax.jit
    def rank(key: Array, latents: Values, data: Values, draws: Values) -> tuple[Values, Values]:
        if quantities is not None:
            extra = dict(quantities(latents, data))
            if shared := sorted(extra.keys() & latents.keys()):
                raise ValueError(
                    f"{caller}: `quantities` must have names of their own, got those of the sites "
                    f"{shared}"
                )
            extra_draws = jax.vmap(lambda z: dict(quantities(z, data)))(draws)
            latents, draws = {**latents, **extra}, {**draws, **extra_draws}
        keys = jax.random.split(key, len(latents))
        ranks = {n: _rank(k, latents[n], draws[n]) for n, k in zip(latents, keys, strict=True)}
        undefined = {n: _any_nan(latents[n]) | _any_nan(draws[n]) for n in latents}
        return ranks, undefined

    def one(keys: Array) -> tuple[Values, Values]:
        latents, data = simulate(keys[0])
        return rank(keys[2], latents, data, infer(keys[1], latents, data))

    all_keys = jax.vmap(lambda key: jax.random.split(key, 3))(
        jax.random.split(key, num_simulations)
    )
    if vectorized:
        at_once = min(batch_size, num_simulations)
        ranks, undefined = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=at_once))(
            all_keys
        )
    else:
        outcomes = [one(keys) for keys in all_keys]
        ranks, undefined = jax.tree.map(lambda *leaves: jnp.stack(leaves), *outcomes)
    for name, bad in undefined.items():
        if bad.any():
            raise ValueError(
                f"{caller}: {int(bad.sum())} of {num_simulations} simulations have NaN among the "
                f"draws of {name!r}, or in its true value; first the one at index "
                f"{int(bad.argmax())}"
            )
    return {name: np.asarray(value) for name, value in ranks.items()}


def uniformity_pvalues(ranks: Mapping[str, Any], num_draws: int) -> dict[str, np.ndarray]:
    """P-values of the ranks being uniform on 0, ..., ``num_draws``.

    The statistic is the least plausible value of the empirical distribution function: the minimum
    over all ranks of its two-sided binomial tail probability (Säilynoja, Bürkner and Vehtari 2022,
    "Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation and
    multiple sample comparison"). It sees deviations in the tails as well as in the middle, and its
    distribution is computed exactly, for any number of simulations: no bins, no asymptotics.

    Scalars of one site, and sites, are tested one by one: among 100 p-values of a calibrated
    posterior, the least is about 0.01.

    Args:
      ranks: ints by site, ``(num_simulations, *shape)``, as from :func:`calibration_ranks`.
      num_draws: the largest rank there can be.

    Returns:
      P-values by site, ``shape``.

    Raises:
      TypeError: if ranks are not ints.
      ValueError: if there are none, or one is negative or above ``num_draws``.

    >>> import numpy as np
    >>> even, narrow = np.arange(100) % 10, np.arange(100) % 2 * 9
    >>> p_values = uniformity_pvalues({"even": even, "narrow": narrow}, num_draws=9)
    >>> bool(p_values["even"] > 0.9), bool(p_values["narrow"] < 1e-9)
    (True, True)
    """
    caller = "uniformity_pvalues"
    num_draws = _check.positive_int(caller, "num_draws", num_draws)
    p_values = {}
    for name, given in ranks.items():
        values = np.asarray(given)
        if not np.issubdtype(values.dtype, np.integer):
            raise TypeError(f"{caller}: `ranks` of {name!r} must be ints, got {values.dtype}")
        if values.ndim == 0 or values.shape[0] == 0:
            raise ValueError(
                f"{caller}: `ranks` of {name!r} must have shape (num_simulations, ...), got "
                f"{values.shape}"
            )
        if values.size and not 0 <= values.min() <= values.max() <= num_draws:
            raise ValueError(
                f"{caller}: `ranks` of {name!r} must be from 0 to `num_draws`={num_draws}, got "
                f"{values.min()} to {values.max()}"
            )
        columns = values.reshape(len(values), -1)
        p_values[name] = _pvalues(columns, num_draws).reshape(values.shape[1:])
    return p_values


def _chosen(latents: Values, names: Sequence[str] | None) -> Values:
    if names is None:
        return latents
    unknown = [name for name in names if name not in latents]
    if unknown or not names:
        raise ValueError(
            f"calibration_ranks: `latents` must name latent sites of the model, got "
            f"{tuple(names)}; there are {tuple(latents)}"
        )
    return {name: latents[name] for name in names}


def _check_draws(draws: Any, latents: Values, num_draws: int) -> Values:
    if not isinstance(draws, Mapping):
        raise TypeError(
            "calibration_ranks: `posterior` must return a dict of draws by site, got "
            f"{type(draws).__name__}"
        )
    missing = [name for name in latents if name not in draws]
    if missing:
        raise ValueError(
            f"calibration_ranks: `posterior` must return draws of every latent site, or of those "
            f"named in `latents`, got none of {missing}"
        )
    for name, value in latents.items():
        expected = (num_draws, *jnp.shape(value))
        if jnp.shape(draws[name]) != expected:
            raise ValueError(
                f"calibration_ranks: `posterior` returned draws of {name!r} of shape "
                f"{jnp.shape(draws[name])}, expected (num_draws, *site_shape) = {expected}"
            )
    return {name: jnp.asarray(draws[name]) for name in latents}


def _rank(key: Array, value: Array, draws: Array) -> Array:
    """How many of the draws are below the value, those that equal it placed at random."""
    below = jnp.sum(draws < value, axis=0)
    equal = jnp.sum(draws == value, axis=0)
    return below + jax.random.randint(key, equal.shape, 0, equal + 1)


def _any_nan(value: Array) -> Array:
    return jnp.isnan(value).any()


def _pvalues(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """The test of :func:`uniformity_pvalues`, for each column."""
    size, num_ranks = len(ranks), num_draws + 1
    counts = np.stack([(ranks <= cut).sum(axis=0) for cut in range(num_draws)])
    tails = _tail_probabilities(size, np.arange(1, num_ranks) / num_ranks)
    statistic = np.take_along_axis(tails, counts, axis=1).min(axis=0)
    levels, columns = np.unique(statistic, return_inverse=True)

    # Counts of uniform ranks are those of a Poisson process, given their sum.
    rate, counts = size / num_ranks, np.arange(size + 1)
    step = np.trim_zeros(_poisson(rate, counts), "b")
    left = rate * np.arange(num_draws, 0, -1)
    rest = _poisson(left[:, None], size - counts)
    ended = np.array([_first_passage((1 + _TIE) * level, tails, step, rest) for level in levels])
    p_values = ended / _poisson(size, np.array(size))
    return np.minimum(p_values, 1.0)[columns.ravel()]


def _first_passage(level: float, tails: np.ndarray, step: np.ndarray, rest: np.ndarray) -> float:
    """Probability that some tail is at most ``level``, and that all ranks are ``size`` in number.

    The counts up to each cut are a Markov chain. It ends where a tail is for the first time as
    small as that, and the probabilities of all these ends are summed. In between it is in one
    interval of counts, because tails rise and then fall.

    Args:
      level: the observed tail.
      tails: tail probabilities, ``(cut, count)``.
      step: probability of each increment from cut to cut, from 0 on.
      rest: probability of what is missing to ``size`` after the cut, ``(cut, count)``.
    """
    state, start = np.ones(1), 0  # of the counts from `start` on
    ended = 0.0
    for tail, remaining in zip(tails, rest, strict=True):
        state = np.convolve(state, step)[: len(tail) - start]
        reached = slice(start, start + len(state))
        ends = tail[reached] <= level
        ended += state[ends] @ remaining[reached][ends]
        going_on = np.flatnonzero(~ends)
        if not going_on.size:
            break
        state = state[going_on[0] : going_on[-1] + 1]
        start += going_on[0]
    return ended


def _tail_probabilities(size: int, probabilities: np.ndarray) -> np.ndarray:
    """The smaller binomial tail, ``(probability, count)``, each including the count itself."""
    count = np.arange(size + 1)
    log_choose = _log_factorial(size)[-1] - _log_factorial(size) - _log_factorial(size)[::-1]
    log_odds = np.multiply.outer(np.log(probabilities), count)
    log_odds += np.multiply.outer(np.log1p(-probabilities), size - count)
    mass = np.exp(log_choose + log_odds)
    lower = np.cumsum(mass, axis=1)
    upper = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1]
    return np.minimum(lower, upper)


def _poisson(rate: Any, count: np.ndarray) -> np.ndarray:
    """Probability of each count, all of them at most their largest."""
    log_factorial = _log_factorial(int(count.max()))
    return np.exp(count * np.log(rate) - rate - log_factorial[count])


def _log_factorial(largest: int) -> np.ndarray:
    """Logarithms of the factorials of 0, ..., ``largest``."""
    return np.array([math.lgamma(n + 1) for n in range(largest + 1)])
