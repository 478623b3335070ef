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
    """The part of a guide that answers NumPyro's ``median`` and ``quantiles`` by sampling."""

    def median(
        self, params: dict[str, Any], *, key: Array | None = None, num_samples: int = 10_000
    ) -> dict[str, Array]:
        """Estimate the median of every latent variable, and of the deterministic sites.

        Args:
          params: trained parameters.
          key: PRNG key of the draws; the same one each time unless given.
          num_samples: number of draws; the error is about 1.25 standard deviations over its root.
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
        """Estimate quantiles of every latent variable, and of the deterministic sites.

        They are those of draws, because a flow has no others in closed form.

        Args:
          params: trained parameters.
          quantiles: probabilities, a number or a sequence.
          key: PRNG key of the draws; the same one each time unless given.
          num_samples: number of draws.

        Returns:
          For each site, ``(*quantiles_shape, *site_shape)``.

        Raises:
          ValueError: for a probability outside of [0, 1], or a number of draws below 1.
        """
        check_set_up(self, "quantiles")
        probabilities = np.asarray(quantiles, float)
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError(
                f"AutoFlow.quantiles: `quantiles` must be in [0, 1], got {quantiles!r}"
            )
        num_samples = _check.positive_int("AutoFlow.quantiles", "num_samples", num_samples)
        key = jax.random.key(0) if key is None else key
        draws = self.sample_posterior(key, params, sample_shape=(num_samples,))
        return {
            name: jnp.quantile(jnp.asarray(value, float), probabilities, 0)
            for name, value in draws.items()
        }
