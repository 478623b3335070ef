"""Files that version 0.1.0 wrote are read, with the densities that they had then."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from numpyro.distributions import constraints

import flowdists as fd
from flowdists import io
from flowdists.io import container, names
from flowdists.transformers import ShiftScale
from tests.tolerances import LOG_DET_F32

FOLDER = Path(__file__).parent / "files_of_0_1"
# Points of each file, their contexts if it takes any, and log-densities in single precision.
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


def of_sets(key: jax.Array) -> fd.ConditionalFlow:
    """A flow whose embedding no file can describe."""
    network_key, key = jax.random.split(key)
    embedding = fd.DeepSets(network_key, 2, 3, hidden_sizes=(4,))
    options = {"num_layers": 2, "hidden_sizes": (6,), "context_shape": (4, 2)}
    return fd.IAF(key, (2,), embedding=embedding, **options)


def of_layers(key: jax.Array) -> fd.Flow:
    """Layers that the recipes of the other files do not have."""
    spline, rotation = fd.RationalQuadraticSpline((2,), num_bins=3), fd.Householder(key, (2,))
    layers = [
        fd.Coupling(key, (4,), transformer=ShiftScale(), mask="half", hidden_sizes=(6,)),
        fd.Elementwise((4,), transformer=ShiftScale()),
        fd.Concatenated([spline, rotation], [(2,), (2,)]),
        fd.Inverse(fd.Affine(np.zeros(4, np.float32), np.ones(4, np.float32))),
        fd.Permute((2, 0, 3, 1)),
        fd.to_support(constraints.positive),
    ]
    return fd.Flow(fd.StandardNormal((4,)), fd.Chain(layers))


TEMPLATES: dict[str, Callable[[jax.Array], fd.Flow | fd.ConditionalFlow]] = {
    "iaf_of_sets": of_sets,
    "layers_by_hand": of_layers,
}


@jax.jit
def score(flow, x, context):
    flow = flow if context is None else flow.condition(context)
    return flow.log_prob(x)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_densities_are_those_of_0_1(name, key):
    make = TEMPLATES.get(name)
    like = None if make is None else jax.eval_shape(make, key)
    flow = fd.load(FOLDER / f"{name}.safetensors", like=like)
    given = EXPECTED[name]
    context = given.get("context")
    if context is not None:
        dtype = np.int32 if flow.num_classes else np.float32
        context = np.asarray(context, dtype)
    scores = score(flow, np.asarray(given["x"], np.float32), context)
    np.testing.assert_allclose(scores, given["log_prob"], rtol=LOG_DET_F32)


def test_renamed_parameters_are_found_in_old_files_only(monkeypatch):
    flow = fd.Flow(fd.StandardNormal((2,)), fd.Chain([fd.ActNorm((2,))]))
    monkeypatch.setattr(names, "RENAMED", {1: {r"\.shift$": ".offset"}, 2: {r"\.offset$": ".loc"}})
    arrays, metadata = container.unpack(io.to_bytes(flow), "test")
    arrays["bijector.layers[0].shift"] = arrays.pop("bijector.layers[0].loc")
    for version, is_read in ((1, True), (3, False)):
        monkeypatch.setattr(container, "VERSION", version)
        data = container.pack(arrays, {**metadata, "format_version": str(version)})
        if is_read:
            assert io.from_bytes(data, "file", flow).bijector.eq(flow.bijector)
        else:
            with pytest.raises(ValueError, match="no parameter"):
                io.from_bytes(data, "file", flow)
