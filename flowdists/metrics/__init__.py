"""How well two sets of draws agree, and how well a conditional density is calibrated."""

from flowdists.metrics.c2st import c2st
from flowdists.metrics.coverage import CoverageResult, expected_coverage
from flowdists.metrics.mmd import mmd
from flowdists.metrics.sliced_wasserstein import sliced_wasserstein

__all__ = [
    "CoverageResult",
    "c2st",
    "expected_coverage",
    "mmd",
    "sliced_wasserstein",
]
