"""A guide that is not at its start."""

import pytest

import flowdists as fd
from flowdists.infer import AutoFlow
from tests.infer.autoflow.regression import DATA, TINY, perturbed, regression, start


@pytest.fixture(scope="module")
def fitted():
    """A guide of the regression with parameters away from their start."""
    guide = AutoFlow(regression, fd.RealNVP, **TINY)
    _, _, params = start(guide, *DATA)
    return guide, perturbed(params)
