"""Flows inside NumPyro: guides, flows as modules of a model, neural transport."""

from flowdists.guides.amortized import AutoAmortizedFlow
from flowdists.guides.autoflow import AutoFlow
from flowdists.guides.fit_guide import GuideFit, fit_guide
from flowdists.guides.module import flow_module, random_flow_module
from flowdists.guides.neutra import NeuTraReparam

__all__ = [
    "AutoAmortizedFlow",
    "AutoFlow",
    "GuideFit",
    "NeuTraReparam",
    "fit_guide",
    "flow_module",
    "random_flow_module",
]
