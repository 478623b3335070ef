"""ArviZ, which has two interfaces: up to 0.23, and from 1.0 on.

It is imported when it is used, because the import takes longer than that of everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def pareto_smooth(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed log weights, of the same scale as those given, and the shape of the tail.

    Args:
      log_weights: ``(n,)`` in double precision, n at least 25.
    """
    arviz = _arviz()
    if _is_legacy(arviz):
        smoothed, khat = arviz.psislw(log_weights)
    else:
        # It smooths weights that are inverse likelihoods.
        data = arviz.dict_to_dataset({"": -log_weights}, sample_dims=["draw"])
        smoothed, khat = (part[""].values for part in data.azstats.psislw(dim="draw"))
    # ArviZ normalizes; the least of the weights, which is in no tail, tells by how much.
    least = np.argmin(np.where(np.isfinite(log_weights), log_weights, np.inf))
    return np.asarray(smoothed) + (log_weights[least] - smoothed[least]), float(khat)


def container(
    groups: Mapping[str, Mapping[str, Any]],
    coords: Mapping[str, Any] | None,
    dims: Mapping[str, Sequence[str]],
) -> Any:
    """An ``InferenceData`` of ArviZ 0.x, a ``DataTree`` from 1.0 on, of the groups that exist."""
    arviz = _arviz()
    given: dict[str, Any] = {name: dict(group) for name, group in groups.items() if group}
    if _is_legacy(arviz):
        return arviz.from_dict(**given, coords=coords, dims=dims)
    return arviz.from_dict(given, coords=coords, dims=dims)


def _arviz() -> Any:
    import arviz

    return arviz


def _is_legacy(arviz: Any) -> bool:
    return arviz.__version__.startswith("0.")
