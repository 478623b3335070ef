"""Pareto-smoothed importance sampling with a guide as the proposal."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.diagnostics._scoring import draw
from flowdists.diagnostics.arviz import load_arviz

Array = jax.Array
MIN_SAMPLES = 25  # the tail is a fifth of them, and a Pareto fit needs at least five
_ROUNDING = 8  # log weights are equal if they differ by at most this many units of rounding


@dataclass(frozen=True, eq=False, repr=False)
class ImportanceResult:
    r"""The result of :func:`~flowdists.importance_sampling`. All densities are in nats.

    Attributes:
      samples: draws from the guide by latent site of the model, ``(num_samples, *site_shape)``.
        They are not draws from the posterior: weight them, or use :meth:`resample`.
      log_weights: ``log p(x, z) - log q(z)``, ``(num_samples,)``.
      smoothed_log_weights: the same after Pareto smoothing and normalization: the sum of their
        exponentials is one.
      khat: Pareto k-hat, the shape of the tail of the weights. Estimates with the smoothed weights
        are reliable if it is below 0.7 (with fewer than 2200 draws, below
        ``1 - 1 / log10(num_samples)``). Minus infinity if there is no tail, because the largest
        weights are equal up to rounding; plus infinity if too few weights are positive.
      ess: effective sample size of the smoothed weights, :math:`1 / \sum_s w_s^2`.
      elbo: the evidence lower bound, the mean of the raw log weights.
      elbo_se: standard error of ``elbo``; NaN if the bound is minus infinity.
      log_evidence: estimate of ``log p(x)`` from the mean of the smoothed weights.
      log_evidence_se: standard error of ``log_evidence`` by the delta method. It is too small if
        ``khat`` is above 0.5, where the raw weights have no variance.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model(x):
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("x", dist.Normal(z, 1), obs=x)
    >>> def exact_posterior(x):
    ...     numpyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> importance_sampling(jax.random.key(0), model, exact_posterior, {}, 1.0, num_samples=100)
    ImportanceResult(num_samples=100, khat=-inf, ess=100.0, elbo=-1.516 ± 0.000,
                     log_evidence=-1.516 ± 0.000)
    """

    samples: dict[str, Array]
    log_weights: np.ndarray
    smoothed_log_weights: np.ndarray
    khat: float
    ess: float
    elbo: float
    elbo_se: float
    log_evidence: float
    log_evidence_se: float

    def resample(self, key: Array, num_samples: int) -> dict[str, Array]:
        """Draw from :attr:`samples` with replacement, with the smoothed weights as probabilities.

        Args:
          key: PRNG key.
          num_samples: how many draws. Few of them are repeated if this is far below :attr:`ess`.

        Returns:
          Approximate posterior draws by site, ``(num_samples, *site_shape)``.

        Raises:
          TypeError: for a key that is not a key.
          ValueError: if ``num_samples`` is not positive.
        """
        key = _check.key("resample", key)
        num_samples = _check.positive_int("resample", "num_samples", num_samples)
        weights = np.exp(self.smoothed_log_weights)
        rows = jax.random.choice(key, weights.size, (num_samples,), p=weights)
        return {name: value[rows] for name, value in self.samples.items()}

    def __repr__(self) -> str:
        return (
            f"ImportanceResult(num_samples={self.log_weights.size}, khat={self.khat:.2f}, "
            f"ess={self.ess:.1f}, elbo={self.elbo:.3f} ± {self.elbo_se:.3f}, "
            f"log_evidence={self.log_evidence:.3f} ± {self.log_evidence_se:.3f})"
        )


def importance_sampling(
    key: Array,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    params: dict[str, Any],
    *args: Any,
    num_samples: int = 4000,
    batch_size: int | None = 1000,
    **kwargs: Any,
) -> ImportanceResult:
    r"""Weight draws from a guide by :math:`p(x, z) / q(z)`, with Pareto smoothing.

    Pareto-smoothed importance sampling (Vehtari, Simpson, Gelman, Yao and Gabry 2024,
    https://arxiv.org/abs/1507.02646), as a check of variational inference (Yao, Vehtari, Simpson
    and Gelman 2018, https://arxiv.org/abs/1802.02538). The shape ``khat`` of the tail of the
    weights says whether the guide is close enough to the posterior. If it is, the weights correct
    the remaining error: use ``resample``.

    The mean of the smoothed weights estimates the evidence. If the tail of the weights is light, it
    is as good as the mean of the raw weights, which is unbiased. If the tail is heavy and k-hat is
    still below its limit, its error is smaller, and it is biased towards too little evidence.

    The guide may be anything that has a density: automatic, hand-written, or a flow. An
    ``AutoLaplaceApproximation`` is taken as its Gaussian, at the data that it was first called
    with. A draw outside of the support of the model has weight zero. Scales set by
    ``handlers.scale`` are part of the model.

    Args:
      key: PRNG key.
      model: a NumPyro model, with its data given; plates hold all of their rows.
      guide: its guide. It draws every latent site of the model.
      params: values of the param sites of both, as from ``svi.get_params(state)``.
      *args: arguments of both.
      num_samples: how many draws, at least 25.
      batch_size: how many draws are computed at a time, to save memory; None for all. The draws
        do not depend on it.
      **kwargs: keyword arguments of both.

    Raises:
      TypeError: for arguments of the wrong kind.
      ValueError: if the density of the guide is not known, or is over other sites than those of
        the model; if a plate is subsampled; if values of param sites are missing; or if no draw is
        in the support of the model.
      FloatingPointError: if a weight is NaN or infinite; the error says how many and from which
        sites.

    Warns:
      UserWarning: if ``khat`` is too high for the weights to be reliable.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model(x):
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("x", dist.Normal(z, 1), obs=x)
    >>> def guide(x):
    ...     numpyro.sample("z", dist.Normal(x / 2, 0.8))
    >>> result = importance_sampling(jax.random.key(0), model, guide, {}, 1.0)
    >>> bool(result.khat < 0.7), bool(abs(result.log_evidence + 1.516) < 0.05)
    (True, True)
    >>> result.resample(jax.random.key(1), 1000)["z"].shape
    (1000,)
    """
    caller = "importance_sampling"
    num_samples = _check.positive_int(caller, "num_samples", num_samples, minimum=MIN_SAMPLES)
    draws = draw(caller, key, model, guide, params, args, kwargs, num_samples, batch_size)
    log_weights = draws.log_weights
    if not np.isfinite(log_weights).any():
        raise ValueError(
            f"{caller}: none of {num_samples} draws from `guide` is in the support of `model`"
        )
    smoothed, khat = _smooth(draws.log_p, draws.log_q)
    limit = min(1 - 1 / math.log10(num_samples), 0.7)
    if khat > limit:
        warnings.warn(
            f"{caller}: the Pareto k-hat of the weights is {khat:.2f}, above {limit:.2f}: the "
            "guide is too far from the posterior for weights to correct it, and the standard "
            "errors are too small",
            stacklevel=2,
        )
    log_sum = np.logaddexp.reduce(smoothed)
    normalized = smoothed - log_sum
    weights = np.exp(normalized)
    root = math.sqrt(num_samples)
    is_bounded = np.isfinite(log_weights).all()
    return ImportanceResult(
        samples=draws.latents,
        log_weights=log_weights,
        smoothed_log_weights=normalized,
        khat=khat,
        ess=float(1 / np.sum(weights**2)),
        elbo=float(log_weights.mean()),
        elbo_se=float(log_weights.std(ddof=1) / root) if is_bounded else math.nan,
        log_evidence=float(log_sum - math.log(num_samples)),
        log_evidence_se=float(weights.std(ddof=1) * root),
    )


def _smooth(log_p: np.ndarray, log_q: np.ndarray) -> tuple[np.ndarray, float]:
    """Smoothed log weights and k-hat, also where there is no tail to fit."""
    log_weights = log_p - log_q
    size = log_weights.size
    tail = math.ceil(min(size / 5, 3 * math.sqrt(size)))
    largest = np.argsort(log_weights)[-tail - 1 :]
    cutoff, top = log_weights[largest[0]], log_weights[largest[-1]]
    if cutoff == -math.inf:
        return log_weights, math.inf
    magnitude = max(np.abs(log_p[largest]).max(), np.abs(log_q[largest]).max(), 1.0)
    if top - cutoff <= _ROUNDING * jnp.finfo(jnp.result_type(float)).eps * magnitude:
        return log_weights, -math.inf
    smoothed, khat = _pareto_smooth(log_weights)
    return smoothed, khat if math.isfinite(khat) else math.inf


def _pareto_smooth(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed log weights, not normalized, and k-hat, by ArviZ."""
    arviz, is_legacy = load_arviz()
    if is_legacy:
        smoothed, khat = arviz.psislw(log_weights)
    else:
        # This version smooths weights that are inverse likelihoods.
        data = arviz.dict_to_dataset({"": -log_weights}, sample_dims=["draw"])
        smoothed, khat = (part[""].values for part in data.azstats.psislw(dim="draw"))
    # ArviZ normalizes. The smallest weight is not in the tail, and tells by how much.
    smallest = np.argmin(np.where(np.isfinite(log_weights), log_weights, np.inf))
    return np.asarray(smoothed) + (log_weights[smallest] - smoothed[smallest]), float(khat)
