"""What comes back from a file."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import safetensors.numpy

from flowdists import (
    Affine,
    Flow,
    RealNVP,
    StandardLogistic,
    StandardNormal,
    StandardUniform,
)
from flowdists.io import from_bytes, load, save
from flowdists.recipes.registry import RECIPES
from tests.draws import normal
from tests.io.flows import SMALL, composed, perturbed, rebuilt, small

score = jax.jit(lambda flow, x: flow.log_prob(x))

X = np.ones(3, np.float32)


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
