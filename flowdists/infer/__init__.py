"""Flows inside NumPyro: guides, learned priors, neural transport, diagnostics."""

from flowdists.infer.amortized import AutoAmortizedFlow
from flowdists.infer.autoflow import AutoFlow
from flowdists.infer.calibration import calibration_ranks, uniformity_pvalues
from flowdists.infer.export import to_arviz
from flowdists.infer.fit_guide import GuideFit, fit_guide
from flowdists.infer.importance_sampling import ImportanceResult, importance
from flowdists.infer.module import flow_module, random_flow_module
from flowdists.infer.neutra import NeuTraReparam

__all__ = [
    "AutoAmortizedFlow",
    "AutoFlow",
    "GuideFit",
    "ImportanceResult",
    "NeuTraReparam",
    "calibration_ranks",
    "fit_guide",
    "flow_module",
    "importance",
    "random_flow_module",
    "to_arviz",
    "uniformity_pvalues",
]
