"""Flows inside NumPyro: diagnostics of guides."""

from flowdists.infer.calibration import calibration_ranks, uniformity_pvalues
from flowdists.infer.export import to_arviz
from flowdists.infer.importance_sampling import ImportanceResult, importance

__all__ = [
    "ImportanceResult",
    "calibration_ranks",
    "importance",
    "to_arviz",
    "uniformity_pvalues",
]
