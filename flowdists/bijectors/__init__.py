"""Invertible layers, each a NumPyro transform, a distrax bijector and a pytree."""

from flowdists._pytree import static
from flowdists.bijectors.actnorm import ActNorm
from flowdists.bijectors.autoregressive import MaskedAutoregressive
from flowdists.bijectors.base import Bijector
from flowdists.bijectors.compose import (
    Chain,
    Concatenated,
    Conditioned,
    Embedded,
    Foreign,
    Inverse,
    Repeat,
    Wrapper,
)
from flowdists.bijectors.context_elementwise import ContextElementwise
from flowdists.bijectors.coupling import AffineCoupling, Coupling, SplineCoupling
from flowdists.bijectors.elementwise import Affine, Elementwise, RationalQuadraticSpline
from flowdists.bijectors.linear import Householder, LULinear
from flowdists.bijectors.permute import Permute, Reverse
from flowdists.bijectors.support import Support, to_support

__all__ = [
    "ActNorm",
    "Affine",
    "AffineCoupling",
    "Bijector",
    "Chain",
    "Concatenated",
    "Conditioned",
    "ContextElementwise",
    "Coupling",
    "Elementwise",
    "Embedded",
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
    "Support",
    "Wrapper",
    "static",
    "to_support",
]
