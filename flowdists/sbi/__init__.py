"""Simulation-based inference: conditional flows learned from a NumPyro model's own draws."""

from flowdists.sbi.amortize import Amortized, amortize, amortize_likelihood
from flowdists.sbi.conditional import SiteFlow
from flowdists.sbi.simulator import Simulator
from flowdists.sbi.truncated import Truncated, amortize_truncated

__all__ = [
    "Amortized",
    "Simulator",
    "SiteFlow",
    "Truncated",
    "amortize",
    "amortize_likelihood",
    "amortize_truncated",
]
