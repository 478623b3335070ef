"""What the tests of flows as distributions share."""

import functools

import numpy as np
import pytest

import flowdists as fd
from tests import table
from tests.draws import drawn

ONE_DIMENSIONAL = ["maf", "iaf", "nsf_autoregressive"]
recipes = pytest.mark.parametrize("name", sorted(table.RECIPES))


def build(name, event_shape=(4,), scale=0.3, **options):
    """A recipe's flow whose parameters are drawn."""
    return drawn(functools.partial(table.RECIPES[name], event_shape=event_shape, **options), scale)


def flow_of(base, *layers):
    return fd.Flow(base, fd.Chain(layers), validate_args=False)


def grid(points: int, half_width: float):
    axis = np.linspace(-half_width, half_width, points)
    return axis, axis[1] - axis[0]
