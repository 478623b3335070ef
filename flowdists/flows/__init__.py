"""Recipes: named architectures that compose bijectors into a flow."""

from flowdists.flows.glow import GLOW_SIZES, Glow, glow_step
from flowdists.flows.glow1d import Glow1D
from flowdists.flows.maf import IAF, MAF
from flowdists.flows.nsf import NSF, NeuralSplineFlow
from flowdists.flows.realnvp import RealNVP
from flowdists.flows.realnvp_image import RealNVPImage

__all__ = [
    "GLOW_SIZES",
    "IAF",
    "MAF",
    "NSF",
    "Glow",
    "Glow1D",
    "NeuralSplineFlow",
    "RealNVP",
    "RealNVPImage",
    "glow_step",
]
