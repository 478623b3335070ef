"""Flows of images in two scales."""

import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.transforms import AffineTransform

import flowdists as fd
from tests.draws import drawn
from tests.tolerances import ROUND_TRIP_F32

SHAPE = (8, 8, 1)
LATENT_SHAPES = [(4, 4, 2), (2, 2, 8)]


def scales(context_shape=None):
    """Two scales, the finer of which depends on the coarser one, and both on a context."""
    top = fd.TopPrior((2, 2, 8), context_shape=context_shape)
    split = fd.SplitPrior((4, 4, 4), context_shape=context_shape)
    return fd.MultiScale(
        [
            fd.Chain([split, fd.Inverse(fd.Squeeze((8, 8, 1)))]),
            fd.Chain([top, fd.Inverse(fd.Squeeze((4, 4, 2)))]),
        ]
    )


def of_scales():
    return fd.Flow(fd.StandardNormal((64,)), drawn(lambda key: scales(), 0.1))


def conditional():
    layer = drawn(lambda key: scales((3,)), 0.1)
    return fd.ConditionalFlow(fd.StandardNormal((64,)), layer, num_classes=3)


def of_labels():
    return conditional().condition(np.array([0, 2]))


def of_labels_in_a_chain():
    flow = of_labels()
    return fd.Flow(flow.base, fd.Chain([fd.Chain([flow.bijector]), AffineTransform(0.5, 2.0)]))


FLOWS = {"scales": of_scales, "labels": of_labels_in_a_chain}


def linear(base=None):
    """A flow of two scales in which everything is known: it moves pixels, nothing else."""
    base = dist.Normal(0.0, 1.0) if base is None else base
    if base.event_shape != (64,):
        base = base.expand((64,)).to_event(1)
    layer = fd.MultiScale([fd.Inverse(fd.Squeeze((8, 8, 1))), fd.Inverse(fd.Squeeze((4, 4, 2)))])
    return fd.Flow(base, layer)


def assert_close(given, expected, tolerance=ROUND_TRIP_F32):
    given, expected = np.asarray(given), np.asarray(expected)
    assert given.shape == expected.shape
    limit = tolerance * (1 + np.abs(expected).max(initial=0))
    np.testing.assert_allclose(given, expected, rtol=0, atol=limit)
