"""Monotone maps of a scalar whose parameters come from outside, usually from a network."""

from flowdists.transformers.base import Transformer
from flowdists.transformers.compose import Compose
from flowdists.transformers.shift_scale import Additive, ShiftScale
from flowdists.transformers.spline import RationalQuadratic

__all__ = ["Additive", "Compose", "RationalQuadratic", "ShiftScale", "Transformer"]
