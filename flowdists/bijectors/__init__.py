"""Invertible layers, each a NumPyro transform, a distrax bijector and a pytree."""

from flowdists._pytree import static
from flowdists.bijectors.autoregressive import MaskedAutoregressive
from flowdists.bijectors.base import Bijector
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.conditioned import Conditioned
from flowdists.bijectors.context_elementwise import ContextElementwise
from flowdists.bijectors.coupling import AffineCoupling, Coupling, SplineCoupling
from flowdists.bijectors.elementwise import (
    Affine,
    Elementwise,
    Permute,
    RationalQuadraticSpline,
    Reverse,
)
from flowdists.bijectors.foreign import Foreign
from flowdists.bijectors.inverse import Inverse
from flowdists.bijectors.linear import Householder, LULinear
from flowdists.bijectors.normalization import ActNorm
from flowdists.bijectors.repeat import Repeat
from flowdists.bijectors.support import to_support

__all__ = [
    "ActNorm",
    "Affine",
    "AffineCoupling",
    "Bijector",
    "Chain",
    "Conditioned",
    "ContextElementwise",
    "Coupling",
    "Elementwise",
    "Foreign",
    "Householder",
    "Inverse",
    "LULinear",
    "MaskedAutoregressive",
    "Permute",
    "RationalQuadraticSpline",
    "Repeat",
    "Reverse",
    "SplineCoupling",
    "static",
    "to_support",
]
