"""Flows of which some elements are observed, and what their tests share."""

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

import flowdists as fd
from flowdists.conditionals.given import given
from tests import table
from tests.draws import drawn

KEY = jax.random.key(0)
SMALL = table.SMALL


def flow_of(base, *layers):
    return fd.Flow(base, fd.Chain(layers), validate_args=False)


def autoregressive(size=2, **options):
    return drawn(lambda key: fd.MaskedAutoregressive(key, (size,), **SMALL, **options), 0.4)


def recipe(name, event_shape=(2,), **options):
    options = {"num_layers": 2, **options}
    return drawn(lambda key: table.RECIPES[name](key, event_shape, **options), 0.3)


def interval(low, high):
    return fd.to_support(constraints.interval(low, high))


NORMAL = fd.StandardNormal((2,))

# Flows in two dimensions, what to observe, and where the rest lies.
PLANE = {
    "maf": (lambda: recipe("maf", order="ascending"), 0, 0.7, (-20, 20)),
    "maf descending": (lambda: recipe("maf", order="descending"), 1, -0.3, (-20, 20)),
    "iaf": (lambda: recipe("iaf", order=(1, 0)), -1, 0.4, (-20, 20)),
    "one coupling": (lambda: recipe("real_nvp", num_layers=1), 0, -1.2, (-20, 20)),
    "splines": (
        lambda: flow_of(NORMAL, autoregressive(transformer=table.SPLINE), autoregressive()),
        0,
        0.5,
        (-20, 20),
    ),
    "a stack that stores nothing": (
        lambda: flow_of(NORMAL, fd.Repeat.stack([autoregressive()] * 2, memory="invert")),
        0,
        0.5,
        (-20, 20),
    ),
    "a scalar layer": (
        lambda: fd.Flow(NORMAL, drawn(lambda key: fd.RationalQuadraticSpline(()), 0.4)),
        1,
        0.5,
        (-20, 20),
    ),
    "scalar base": (
        lambda: flow_of(dist.StudentT(6.0).expand([2]).to_event(1), autoregressive()),
        0,
        0.5,
        (-60, 60),
    ),
    "base with parameters": (
        lambda: flow_of(
            dist.Normal(np.array([0.5, -0.5]), np.array([0.5, 2.0])).to_event(1),
            fd.Reverse((2,)),
            autoregressive(order="descending"),
            fd.Reverse((2,)),
        ),
        0,
        0.5,
        (-30, 30),
    ),
    "bounded": (lambda: flow_of(NORMAL, autoregressive(), interval(-1.0, 3.0)), 0, 0.2, (-1, 3)),
    "bounds of its own for each": (
        lambda: flow_of(
            NORMAL, autoregressive(), interval(np.array([0.0, -1.0]), np.array([1.0, 3.0]))
        ),
        0,
        0.2,
        (-1, 3),
    ),
    "a kind of bounds for each": (
        lambda: flow_of(
            NORMAL,
            autoregressive(),
            fd.Concatenated([fd.to_support(constraints.positive), interval(-1.0, 3.0)], [(), ()]),
        ),
        0,
        5.0,
        (-1, 3),
    ),
    "bounded before the last layer": (
        lambda: flow_of(NORMAL, autoregressive(), interval(0.0, 1.0), autoregressive()),
        0,
        0.4,
        (-6, 6),
    ),
    "bounded base": (
        lambda: flow_of(fd.StandardUniform((2,)), interval(0.0, 1.0).inv, autoregressive()),
        0,
        0.5,
        (-40, 40),
    ),
    "logistic base": (
        lambda: flow_of(fd.StandardLogistic((2,)), autoregressive()),
        0,
        0.5,
        (-40, 40),
    ),
    "bounded base and no bounded layer": (
        lambda: flow_of(fd.StandardUniform((2,), -1.0, 1.0), autoregressive()),
        0,
        0.3,
        (-6, 6),
    ),
    "independent elements": (
        lambda: flow_of(dist.Gamma(2.0, 1.0).expand([2]).to_event(1), fd.Reverse((2,))),
        0,
        0.5,
        (0, 40),
    ),
    "circle": (
        lambda: flow_of(
            fd.StandardUniform((2,), -np.pi, np.pi), autoregressive(transformer=table.CIRCULAR)
        ),
        0,
        0.3,
        (-np.pi, np.pi),
    ),
}


def cumulative(axis, density):
    """Integrals up to each point of the axis."""
    return np.append(0.0, np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(axis)))


def rest_of(name):
    """A flow of the table given its element."""
    make, index, value, _ = PLANE[name]
    return given(make(), [index], np.array([value]))


def made(size, **options):
    options = {"hidden_sizes": (8,), **options}
    return drawn(lambda key: fd.MaskedAutoregressive(key, (size,), **options))


def standard(size, *layers):
    return flow_of(fd.StandardNormal((size,)), *layers)


def few(name, size=4, **options):
    options = {"num_layers": 2, "hidden_sizes": (8,), **options}
    return drawn(lambda key: getattr(fd, name)(key, (size,), **options))
