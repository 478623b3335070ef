"""Recipes: named architectures that compose bijectors into a flow."""

from flowdists.flows.glow1d import Glow1D
from flowdists.flows.maf import IAF, MAF
from flowdists.flows.nsf import NSF, NeuralSplineFlow
from flowdists.flows.realnvp import RealNVP

__all__ = ["IAF", "MAF", "NSF", "Glow1D", "NeuralSplineFlow", "RealNVP"]
