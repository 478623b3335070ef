"""Recipes of flows of images."""

from flowdists.images.recipes.glow import GLOW_SIZES, Glow, glow_step
from flowdists.images.recipes.realnvp_image import RealNVPImage

__all__ = ["GLOW_SIZES", "Glow", "RealNVPImage", "glow_step"]
