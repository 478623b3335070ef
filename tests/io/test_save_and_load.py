"""`save` and `load`: what comes back, and what is refused."""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import safetensors.numpy

import flowdists.io.container as container
from flowdists import (
    ActNorm,
    Affine,
    AffineCoupling,
    Chain,
    ConditionalFlow,
    Flow,
    RealNVP,
    StandardLogistic,
    StandardNormal,
    StandardUniform,
    to_support,
)
from flowdists.io import from_bytes, load, save, to_bytes
from flowdists.recipes.registry import RECIPES
from tests.draws import normal
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


score = jax.jit(lambda flow, x: flow.log_prob(x))


X = np.ones(3, np.float32)


def rebuilt(flow, edit=lambda arrays, metadata: None) -> bytes:
    """The bytes of ``flow``'s file after ``edit``, with a checksum that is right."""
    arrays, metadata = container.unpack(to_bytes(flow), "test")
    edit(arrays, metadata)
    return container.pack(arrays, metadata)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flow.safetensors"


# What comes back.


@pytest.mark.parametrize("context_shape", [None, (2,)], ids=["plain", "conditional"])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe(name, context_shape, path, key):
    options = SMALL if context_shape is None else {**SMALL, "context_shape": context_shape}
    try:
        recipe = functools.partial(RECIPES[name], event_shape=(4,), **options)
        flow = perturbed(jax.jit(recipe)(key))
    except TypeError as error:
        pytest.skip(f"{name} does not take these options: {error}")
    save(path, flow)
    loaded = load(path)
    assert type(loaded) is type(flow) and loaded.recipe == flow.recipe
    # The same program on the same numbers: densities are then equal to the last bit.
    assert jax.tree.structure(loaded.bijector) == jax.tree.structure(flow.bijector)
    pairs = zip(jax.tree.leaves(loaded.bijector), jax.tree.leaves(flow.bijector), strict=True)
    assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def test_parameters_have_readable_names(path):
    save(path, composed())
    assert set(safetensors.numpy.load_file(path)) == {
        "bijector.layers[0].conditioner.input_layer.weight",
        "bijector.layers[0].conditioner.input_layer.bias",
        "bijector.layers[0].conditioner.output_layer.weight",
        "bijector.layers[0].conditioner.output_layer.bias",
        "bijector.layers[1].loc",
        "bijector.layers[1].log_scale",
    }


def test_a_path_of_any_kind_and_name(tmp_path, key):
    save(str(tmp_path / "no suffix"), small())
    assert os.listdir(tmp_path) == ["no suffix"]
    assert load(tmp_path / "no suffix").recipe == load(str(tmp_path / "no suffix")).recipe


BASES = {
    "normal": lambda: StandardNormal((3,)),
    "uniform": lambda: StandardUniform((3,), -2.0, 2.0),
    "logistic": lambda: StandardLogistic((3,)),
    "batched": lambda: StandardNormal((3,)).expand((5,)),
    "scalars": lambda: dist.Normal(0.1, 0.7),
    "student": lambda: dist.StudentT(5.0, jnp.arange(3.0), 1.5).to_event(1),
    "expanded": lambda: dist.Normal(0.1, 0.7).expand((5, 3)).to_event(1),
    "full": lambda: dist.MultivariateNormal(jnp.arange(3.0), 2 * jnp.eye(3)),
    "numpy": lambda: dist.Laplace(np.arange(3.0), 1.0),  # float64 in NumPy's hands
}


@pytest.mark.parametrize("name", BASES)
def test_bases(name, path, key):
    base = BASES[name]()
    if base.batch_shape == (5,):
        flow = small().replace(base=base)
    else:
        flow = perturbed(RealNVP(key, (3,), base=base, **SMALL))
    save(path, flow)
    loaded = load(path)
    x = normal(1, (7, *base.batch_shape[:1], 3), 0.5)
    scores = score(flow, x)
    assert type(loaded.base) is type(flow.base)
    assert np.isfinite(scores).all() and np.array_equal(score(loaded, x), scores)
    assert loaded.batch_shape == flow.batch_shape


def test_options_that_are_functions(path, key):
    def with_activation(activation):
        return RealNVP(key, (3,), activation=activation, **SMALL)

    for activation in (jax.nn.relu, jnp.tanh):
        save(path, with_activation(activation))
        assert dict(load(path).recipe.options)["activation"] is activation
    flow = perturbed(with_activation(lambda x: jnp.tanh(2 * x)))
    save(path, flow)
    with pytest.raises(ValueError, match=r"option '<lambda>' cannot be written .*: give a flow of"):
        load(path)
    assert np.array_equal(score(load(path, like=flow), X), score(flow, X))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_kept(dtype, path):
    flow = small()
    cast = lambda leaf: jnp.asarray(np.asarray(leaf).astype(dtype))
    half = flow.replace(bijector=jax.tree.map(cast, flow.bijector))
    save(path, half)
    pairs = zip(jax.tree.leaves(load(path).bijector), jax.tree.leaves(half.bijector), strict=True)
    assert all(a.dtype == dtype and np.array_equal(a, b) for a, b in pairs)


def test_double_precision_is_kept(path, x64):
    flow = Flow(StandardNormal((2,)), Affine(jnp.zeros(2), jnp.ones(2)))
    save(path, flow)
    loaded = load(path, like=flow)
    assert {a.dtype for a in jax.tree.leaves(loaded.bijector)} == {np.dtype("float64")}


def test_double_precision_is_refused_where_it_would_be_lost():
    def widen(arrays, metadata):
        arrays.update({name: a.astype(np.float64) for name, a in arrays.items()})

    with pytest.raises(ValueError, match=r"float64 parameters \(`bijector.*jax_enable_x64"):
        from_bytes(rebuilt(composed(), widen), "file", like=composed())


def test_composed_by_hand(path, key):
    flow = perturbed(composed())
    save(path, flow)
    with pytest.raises(ValueError, match=r"composed by hand\).*`load\(path, like=flow\)`"):
        load(path)
    assert np.array_equal(score(load(path, like=composed(1)), X), score(flow, X))


def test_conditioned_and_replaced_flows_need_a_template(path, key):
    recipe = functools.partial(RealNVP, event_shape=(3,), context_shape=(2,), **SMALL)
    conditioned = perturbed(jax.jit(recipe)(key)).condition(jnp.ones((5, 2)))
    replaced = small().replace(bijector=composed().bijector)
    for flow, reason in [(conditioned, "composed by hand"), (replaced, "not the one that RealNVP")]:
        save(path, flow)
        with pytest.raises(ValueError, match=reason):
            load(path)
        assert np.array_equal(score(load(path, like=flow), X), score(flow, X))


def test_a_base_that_cannot_be_written_comes_from_the_template(path, key):
    base = dist.LogNormal(jnp.zeros(3), 1.0)
    flow = RealNVP(key, (3,), base=base, **SMALL)
    save(path, flow)
    with pytest.raises(ValueError, match=r"the base: a LogNormal holds more than .*like=flow"):
        load(path)
    assert load(path, like=flow).base is flow.base
    other = flow.replace(base=dist.LogNormal(jnp.full(3, 0.5), 1.0).to_event(1))
    with pytest.raises(ValueError, match="other parameters"):
        load(path, like=other)


def test_saving_replaces_in_one_step(path, monkeypatch):
    save(path, small())
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(path, composed())
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


# What is refused.


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
        (set_json("recipe", name="os.system"), "there is none of that name"),
        (set_json("recipe", name=["RealNVP"]), "there is none of that name"),
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
