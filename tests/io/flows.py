"""Small flows, and files of theirs that were edited."""

import functools

import jax

import flowdists.io.container as container
from flowdists import (
    ActNorm,
    AffineCoupling,
    Chain,
    Flow,
    RealNVP,
    StandardNormal,
)
from flowdists.io import to_bytes
from tests.table import perturb

SMALL = {"num_layers": 3, "hidden_sizes": (8,)}


def perturbed(flow):
    """The flow with random parameters, so that a wrong one shows."""
    return flow.replace(bijector=perturb(jax.random.key(7), flow.bijector, 0.1))


@functools.cache
def composed(seed: int = 0, size: int = 3) -> Flow:
    def layers(key):
        return Chain([AffineCoupling(key, (size,), hidden_sizes=(8,)), ActNorm((size,))])

    return Flow(StandardNormal((size,)), jax.jit(layers)(jax.random.key(seed)))


@functools.cache
def small() -> Flow:
    return perturbed(RealNVP(jax.random.key(0), (3,), **SMALL))


def rebuilt(flow, edit=lambda arrays, metadata: None) -> bytes:
    """The bytes of ``flow``'s file after ``edit``, with a checksum that is right."""
    arrays, metadata = container.unpack(to_bytes(flow), "test")
    edit(arrays, metadata)
    return container.pack(arrays, metadata)
