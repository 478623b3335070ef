"""Fixtures of the tests of inference from simulations."""

import numpy as np
import pytest

import flowdists as fd


@pytest.fixture
def given(monkeypatch):
    """The events and contexts that the fit gets. The flow is not trained."""
    seen = {}

    def fit(key, flow, events, *, context, **options):
        seen.update(events=np.asarray(events), contexts=np.asarray(context))
        return fd.training.FitResult(flow, None)

    monkeypatch.setattr("flowdists.sbi.estimation.fit", fit)
    return seen
