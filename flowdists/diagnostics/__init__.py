"""Checks of posteriors, guides and conditional densities."""

from flowdists.diagnostics.arviz import to_arviz
from flowdists.diagnostics.c2st import c2st
from flowdists.diagnostics.coverage import CoverageResult, expected_coverage
from flowdists.diagnostics.importance import ImportanceResult, importance_sampling
from flowdists.diagnostics.mmd import mmd
from flowdists.diagnostics.sbc import sbc_ranks
from flowdists.diagnostics.sliced_wasserstein import sliced_wasserstein
from flowdists.diagnostics.uniformity import uniformity_pvalues

__all__ = [
    "CoverageResult",
    "ImportanceResult",
    "c2st",
    "expected_coverage",
    "importance_sampling",
    "mmd",
    "sbc_ranks",
    "sliced_wasserstein",
    "to_arviz",
    "uniformity_pvalues",
]
