"""Flows inside NumPyro: guides, learned priors, neural transport."""

from flowdists.infer.amortized import AutoAmortizedFlow
from flowdists.infer.autoflow import AutoFlow
from flowdists.infer.fit_guide import GuideFit, fit_guide
from flowdists.infer.module import flow_module, random_flow_module
from flowdists.infer.neutra import NeuTraReparam

__all__ = [
    "AutoAmortizedFlow",
    "AutoFlow",
    "GuideFit",
    "NeuTraReparam",
    "fit_guide",
    "flow_module",
    "random_flow_module",
]
