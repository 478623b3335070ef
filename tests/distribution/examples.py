"""What the tests of flows as distributions share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import table

ONE_DIMENSIONAL = ["maf", "iaf", "nsf_autoregressive"]
recipes = pytest.mark.parametrize("name", sorted(table.RECIPES))


def log_prob(flow, x):
    return np.asarray(jax.jit(lambda flow, x: flow.log_prob(x))(flow, x))


def grid(points: int, half_width: float):
    axis = jnp.linspace(-half_width, half_width, points)
    return axis, float(axis[1] - axis[0])
