"""Invertible layers, each a NumPyro transform, a distrax bijector and a pytree."""

from flowdists._pytree import static
from flowdists.bijectors.autoregressive import MaskedAutoregressive
from flowdists.bijectors.base import Bijector
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.concatenated import Concatenated
from flowdists.bijectors.conditioned import Conditioned
from flowdists.bijectors.context_elementwise import ContextElementwise
from flowdists.bijectors.conv_coupling import ConvCoupling
from flowdists.bijectors.coupling import AffineCoupling, Coupling, SplineCoupling
from flowdists.bijectors.elementwise import (
    Affine,
    Elementwise,
    Permute,
    RationalQuadraticSpline,
    Reverse,
)
from flowdists.bijectors.embedded import Embedded
from flowdists.bijectors.foreign import Foreign
from flowdists.bijectors.image_prior import SplitPrior, TopPrior
from flowdists.bijectors.inverse import Inverse
from flowdists.bijectors.linear import Householder, InvertibleConv1x1, LULinear
from flowdists.bijectors.multiscale import MultiScale
from flowdists.bijectors.normalization import ActNorm
from flowdists.bijectors.pixel_logit import PixelLogit
from flowdists.bijectors.repeat import Repeat
from flowdists.bijectors.squeeze import Squeeze
from flowdists.bijectors.support import to_support

__all__ = [
    "ActNorm",
    "Affine",
    "AffineCoupling",
    "Bijector",
    "Chain",
    "Concatenated",
    "Conditioned",
    "ContextElementwise",
    "ConvCoupling",
    "Coupling",
    "Elementwise",
    "Embedded",
    "Foreign",
    "Householder",
    "Inverse",
    "InvertibleConv1x1",
    "LULinear",
    "MaskedAutoregressive",
    "MultiScale",
    "Permute",
    "PixelLogit",
    "RationalQuadraticSpline",
    "Repeat",
    "Reverse",
    "SplineCoupling",
    "SplitPrior",
    "Squeeze",
    "TopPrior",
    "static",
    "to_support",
]
