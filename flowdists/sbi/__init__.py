"""Simulation-based inference: conditional flows learned from draws of a NumPyro model."""

from flowdists.sbi.conditional_site_flow import ConditionalSiteFlow
from flowdists.sbi.estimation import SBIResult
from flowdists.sbi.nle import nle
from flowdists.sbi.npe import npe
from flowdists.sbi.simulator import Simulator
from flowdists.sbi.tsnpe import TSNPEResult, tsnpe

__all__ = [
    "ConditionalSiteFlow",
    "SBIResult",
    "Simulator",
    "TSNPEResult",
    "nle",
    "npe",
    "tsnpe",
]
