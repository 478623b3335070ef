"""Simulation-based inference: conditional flows learned from draws of a NumPyro model."""

from flowdists.sbi.conditional_site_flow import ConditionalSiteFlow
from flowdists.sbi.npe import SBIResult, nle, npe
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
