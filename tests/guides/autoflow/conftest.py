"""A guide that is not at its start."""

import pytest

from tests.guides.autoflow.regression import exact, perturbed


@pytest.fixture
def fitted():
    """A guide of the regression with parameters away from their start."""
    guide, params = exact()
    return guide, perturbed(params)
