"""Base distributions: without leaves of their own, and what a flow asks of any base."""

from flowdists.bases.description import BaseSpec, bare_base, build_base, describe_base
from flowdists.bases.standard import (
    StandardLogistic,
    StandardNormal,
    StandardUniform,
    as_distrax,
    make_base,
    temper,
)

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
