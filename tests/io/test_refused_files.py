"""What `save` and `load` refuse, and what they say."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import safetensors.numpy

import flowdists.io.container as container
from flowdists import (
    Affine,
    ConditionalFlow,
    Flow,
    RealNVP,
    StandardNormal,
    to_support,
)
from flowdists.io import from_bytes, load, save, to_bytes
from tests.io.flows import SMALL, composed, rebuilt, small


def test_save_refuses(path, key):
    with pytest.raises(TypeError, match="`flow` must be a Flow or ConditionalFlow, got Chain"):
        save(path, composed().bijector)
    with pytest.raises(FileNotFoundError, match="`path` is in a folder that does not exist"):
        save(path.parent / "missing" / "flow", composed())
    with pytest.raises(TypeError, match=r"`bijector.loc` is traced"):
        jax.jit(lambda a: save(path, Flow(StandardNormal((1,)), Affine(a, a))))(jnp.ones(1))
    integers = jax.tree.map(lambda a: jnp.asarray(np.zeros(a.shape, int)), composed().bijector)
    with pytest.raises(TypeError, match="must be a floating-point array, got int32"):
        save(path, Flow(StandardNormal((3,)), integers))
    assert not path.exists()


def test_missing_file_and_folder(path):
    with pytest.raises(FileNotFoundError, match=r"`path` does not exist: .*flow.safetensors"):
        load(path)
    with pytest.raises(ValueError, match="`path` must be a file, got a folder"):
        load(path.parent)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"not a flow at all", b"\x80\x04K\x01.", b"\xff" * 64],
    ids=["empty", "one byte", "text", "pickle", "ones"],
)
def test_foreign_bytes(data, path):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"flow.safetensors is damaged, or not a safetensors file"):
        load(path)


def test_somebody_elses_safetensors(path):
    for metadata in (None, {"format": "pt"}):
        safetensors.numpy.save_file({"weight": np.ones(3)}, path, metadata)
        with pytest.raises(ValueError, match="does not hold a flow"):
            load(path)


def test_every_truncation_is_refused():
    data = to_bytes(composed())
    for size in range(0, len(data), 7):
        with pytest.raises(ValueError, match="damaged"):
            from_bytes(data[:size], "file", like=composed())


def test_every_flipped_bit_is_refused():
    data, like = bytearray(to_bytes(composed(size=2))), composed(size=2)
    for i in range(len(data)):
        bit = 1 << i % 8
        data[i] ^= bit
        with pytest.raises(ValueError, match=r"damaged|does not hold a flow|newer|format version"):
            from_bytes(bytes(data), "file", like=like)
        data[i] ^= bit


def test_a_newer_format(monkeypatch):
    monkeypatch.setattr(container, "VERSION", 3)
    data = to_bytes(small())
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"format version 3, .* reads up to 2: update flowdists"):
        from_bytes(data, "file")


def set_json(entry, **changes):
    def edit(arrays, metadata):
        value = json.loads(metadata[entry])
        metadata[entry] = json.dumps({**value, **changes})

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (set_json("recipe", name="os.system"), "which is not registered"),
        (set_json("recipe", name=["RealNVP"]), "which is not registered"),
        (set_json("recipe", options={"activation": {"function": "os.system"}}), "cannot be read"),
        (set_json("recipe", options={"activation": {"function": "jax.numpy.save"}}), "cannot be"),
        (set_json("recipe", options={"activation": "__loader__"}), "options that it does not take"),
        (set_json("recipe", options={"number": 3}), "options that it does not take"),
        (set_json("recipe", options=3), "its recipe cannot be read"),
        (set_json("recipe", event_shape=None), "its recipe cannot be read"),
        (set_json("recipe", options={}), "`bijector.* of shape"),
        (set_json("base", name="__builtins__"), "a base that cannot be built"),
        (set_json("base", name="Distribution", options={"batch_shape": 3}), "cannot be|not fit"),
        (set_json("base", wrappers=[["eval", "1"]]), "no wrapper 'eval'"),
        (set_json("base", wrappers=3), "a base that cannot be built"),
        (lambda arrays, metadata: metadata.update(recipe="["), "its metadata cannot be read"),
        (lambda arrays, metadata: metadata.update(base="[" * 100_000), "cannot be read|damaged"),
        (lambda arrays, metadata: metadata.pop("kind"), "its metadata cannot be read"),
        (lambda arrays, metadata: metadata.update(kind="Chain"), "damaged"),
    ],
)
def test_a_file_made_to_mislead(edit, match):
    with pytest.raises(ValueError, match=match):
        from_bytes(rebuilt(small(), edit), "file")


def test_parameters_that_do_not_fit():
    name = "bijector.layers[1].loc"
    like = composed()

    def replace_by(value):
        return lambda arrays, metadata: arrays.update({name: value})

    cases = [
        (lambda arrays, metadata: arrays.pop(name), f"no parameter `{name}`"),
        (replace_by(np.ones(4, np.float32)), f"`{name}` of shape (4,), but .* takes shape (3,)"),
        (replace_by(np.ones(3, np.int32)), f"`{name}` of dtype int32, not floating"),
        (lambda arrays, metadata: arrays.update(other=np.ones(1)), "a parameter `other`, which"),
    ]
    for edit, match in cases:
        escaped = match
        for character in "[]()":
            escaped = escaped.replace(character, "\\" + character)
        with pytest.raises(ValueError, match=escaped):
            from_bytes(rebuilt(like, edit), "file", like=like)


def test_templates_that_do_not_fit(path, key):
    save(path, composed())
    with pytest.raises(ValueError, match=r"`bijector.layers\[0\].*has no|no parameter|of shape"):
        load(path, like=composed(size=4))
    conditional = jax.eval_shape(lambda key: RealNVP(key, (3,), context_shape=(2,), **SMALL), key)
    assert isinstance(conditional, ConditionalFlow)
    with pytest.raises(ValueError, match="holds a Flow, but `like` is a ConditionalFlow"):
        load(path, like=conditional)
    with pytest.raises(TypeError, match="`like` must be a Flow or ConditionalFlow, got str"):
        load(path, like="flow")
    positive = Flow(StandardNormal((3,)), to_support(dist.constraints.positive))
    with pytest.raises(ValueError, match=r"a parameter `bijector.* does not have"):
        load(path, like=positive)
