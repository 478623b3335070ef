"""Monotone maps of a scalar whose parameters come from outside, usually from a network."""

from flowdists.transformers.affine import Additive, Affine
from flowdists.transformers.base import Transformer
from flowdists.transformers.compose import Compose
from flowdists.transformers.spline import RationalQuadratic

__all__ = ["Additive", "Affine", "Compose", "RationalQuadratic", "Transformer"]
