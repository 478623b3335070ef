"""Recipes: named architectures that compose bijectors into a flow."""

from flowdists.recipes.glow import GLOW_SIZES, Glow, glow_step
from flowdists.recipes.glow1d import Glow1D
from flowdists.recipes.maf import IAF, MAF
from flowdists.recipes.nsf import NSF, NeuralSplineFlow
from flowdists.recipes.realnvp import RealNVP
from flowdists.recipes.realnvp_image import RealNVPImage
from flowdists.recipes.registry import RECIPES, recipe

__all__ = [
    "GLOW_SIZES",
    "IAF",
    "MAF",
    "NSF",
    "RECIPES",
    "Glow",
    "Glow1D",
    "NeuralSplineFlow",
    "RealNVP",
    "RealNVPImage",
    "glow_step",
    "recipe",
]
