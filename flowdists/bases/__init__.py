"""Base distributions: standard ones without leaves, and what a flow needs from any base."""

from flowdists.bases.convert import as_distrax, make_base
from flowdists.bases.description import BaseSpec, bare_base, build_base, describe_base
from flowdists.bases.standard import StandardLogistic, StandardNormal, StandardUniform
from flowdists.bases.temperature import temper

__all__ = [
    "BaseSpec",
    "StandardLogistic",
    "StandardNormal",
    "StandardUniform",
    "as_distrax",
    "bare_base",
    "build_base",
    "describe_base",
    "make_base",
    "temper",
]
