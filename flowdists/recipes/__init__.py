"""Recipes: named architectures that compose bijectors into a flow."""

from flowdists.recipes.glow1d import Glow1D
from flowdists.recipes.maf import IAF, MAF
from flowdists.recipes.nsf import NSF, NeuralSplineFlow
from flowdists.recipes.realnvp import RealNVP
from flowdists.recipes.registry import RECIPES, recipe

__all__ = ["IAF", "MAF", "NSF", "RECIPES", "Glow1D", "NeuralSplineFlow", "RealNVP", "recipe"]
