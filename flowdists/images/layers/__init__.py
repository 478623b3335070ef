"""Invertible layers on images ``(height, width, channels)``."""

from flowdists.images.layers.conv1x1 import InvertibleConv1x1
from flowdists.images.layers.coupling import ConvCoupling, SplitPrior
from flowdists.images.layers.multiscale import MultiScale
from flowdists.images.layers.pixel_logit import PixelLogit
from flowdists.images.layers.squeeze import Squeeze
from flowdists.images.layers.top_prior import TopPrior

__all__ = [
    "ConvCoupling",
    "InvertibleConv1x1",
    "MultiScale",
    "PixelLogit",
    "SplitPrior",
    "Squeeze",
    "TopPrior",
]
