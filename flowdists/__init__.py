"""Normalizing flows that are NumPyro distributions, made of layers that distrax knows as well.

The bijectors are at once :class:`numpyro.distributions.transforms.Transform`,
:class:`distrax.Bijector` and pytrees whose leaves are their parameters. ``forward`` takes the base
to the data, ``inverse`` the data to the base.
"""

import flowdists._distrax  # noqa: F401 (first, for its error)
from flowdists.bases import StandardNormal, StandardUniform
from flowdists.bijectors import (
    ActNorm,
    Affine,
    AffineCoupling,
    Bijector,
    Chain,
    Conditioned,
    ContextElementwise,
    Coupling,
    Elementwise,
    Foreign,
    Householder,
    Inverse,
    LULinear,
    MaskedAutoregressive,
    Permute,
    RationalQuadraticSpline,
    Repeat,
    Reverse,
    SplineCoupling,
    static,
    to_support,
)
from flowdists.distribution import ConditionalFlow, Flow
from flowdists.flows import IAF, MAF, NSF, Glow1D, NeuralSplineFlow, RealNVP
from flowdists.infer import (
    AutoAmortizedFlow,
    AutoFlow,
    GuideFit,
    ImportanceResult,
    NeuTraReparam,
    calibration_ranks,
    fit_guide,
    flow_module,
    importance,
    random_flow_module,
    to_arviz,
    uniformity_pvalues,
)
from flowdists.io import load, save
from flowdists.networks import MADE, MLP, ResidualMLP
from flowdists.training import FitResult, History, NonFiniteLossError, fit
from flowdists.transformers import RationalQuadratic, Transformer

__version__ = "0.1.0"

__all__ = [
    "IAF",
    "MADE",
    "MAF",
    "MLP",
    "NSF",
    "ActNorm",
    "Affine",
    "AffineCoupling",
    "AutoAmortizedFlow",
    "AutoFlow",
    "Bijector",
    "Chain",
    "ConditionalFlow",
    "Conditioned",
    "ContextElementwise",
    "Coupling",
    "Elementwise",
    "FitResult",
    "Flow",
    "Foreign",
    "Glow1D",
    "GuideFit",
    "History",
    "Householder",
    "ImportanceResult",
    "Inverse",
    "LULinear",
    "MaskedAutoregressive",
    "NeuTraReparam",
    "NeuralSplineFlow",
    "NonFiniteLossError",
    "Permute",
    "RationalQuadratic",
    "RationalQuadraticSpline",
    "RealNVP",
    "Repeat",
    "ResidualMLP",
    "Reverse",
    "SplineCoupling",
    "StandardNormal",
    "StandardUniform",
    "Transformer",
    "calibration_ranks",
    "fit",
    "fit_guide",
    "flow_module",
    "importance",
    "load",
    "random_flow_module",
    "save",
    "static",
    "to_arviz",
    "to_support",
    "uniformity_pvalues",
]
