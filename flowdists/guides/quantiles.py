"""Quantiles of a guide's latent variables, estimated from draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.autoguide import AutoGuide

from flowdists import _check
from flowdists.guides.lifecycle import check_set_up

Array = jax.Array


class QuantilesOfDraws(AutoGuide):
    """Gives a guide NumPyro's ``median`` and ``quantiles``, estimated from draws."""

    def median(
        self, params: dict[str, Any], *, key: Array | None = None, num_samples: int = 10_000
    ) -> dict[str, Array]:
        """Estimate the median of every latent variable and of the deterministic sites.

        Args:
          params: trained parameters.
          key: PRNG key of the draws. By default, the same key in every call.
          num_samples: the number of draws. The standard error of a median is about
            ``1.25 / sqrt(num_samples)`` standard deviations of the variable.

        Returns:
          For each site, ``site_shape``.

        Raises:
          ValueError: if the number of draws is below 1, or the guide has not been run.
        """
        return self.quantiles(params, 0.5, key=key, num_samples=num_samples)

    def quantiles(
        self,
        params: dict[str, Any],
        quantiles: float | Sequence[float],
        *,
        key: Array | None = None,
        num_samples: int = 10_000,
    ) -> dict[str, Array]:
        """Estimate quantiles of every latent variable and of the deterministic sites.

        They are quantiles of draws, because a flow has no quantiles in closed form.

        Args:
          params: trained parameters.
          quantiles: probabilities, a number or a sequence.
          key: PRNG key of the draws. By default, the same key in every call.
          num_samples: the number of draws.

        Returns:
          For each site, ``(*quantiles_shape, *site_shape)``.

        Raises:
          ValueError: if a probability is outside of [0, 1], the number of draws is below 1, or the
            guide has not been run.
        """
        check_set_up(self, "quantiles")
        caller = f"{type(self).__name__}.quantiles"
        probabilities = np.asarray(quantiles, float)
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError(f"{caller}: `quantiles` must be in [0, 1], got {quantiles!r}")
        num_samples = _check.positive_int(caller, "num_samples", num_samples)
        key = jax.random.key(0) if key is None else key
        draws = self.sample_posterior(key, params, sample_shape=(num_samples,))
        return {
            name: jnp.quantile(jnp.asarray(value, float), probabilities, 0)
            for name, value in draws.items()
        }
