"""What NumPyro, distrax and JAX may ask of every layer, and what they must never find."""

import copy
import pickle

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.distributions.transforms import Transform

import flowdists as fd
from tests import table
from tests.bijectors.evaluation import NUM_POINTS, contexts, evaluation, event_shape
from tests.tolerances import LOG_DET_F64

pytestmark = pytest.mark.smoke


@pytest.fixture(params=table.OF_CLASS.values(), ids=lambda entry: entry.cls.__name__)
def entry(request):
    """That which stands for a class."""
    return request.param


@pytest.fixture
def result(entry):
    return evaluation(entry.name)


@pytest.fixture
def layer(result, x64):
    return result.layer


def moved_by_one(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + 1), tree)


def test_every_class_is_in_the_table():
    public = {cls for cls in vars(fd.bijectors).values() if isinstance(cls, type)}
    # What users subclass has no instances of its own.
    assert public - {fd.Bijector, fd.Wrapper} <= set(table.OF_CLASS)


def test_entries_stand_for_their_class(layer, entry):
    assert type(layer) is entry.cls


def test_is_a_transform_and_a_distrax_bijector(layer):
    for each in (layer, layer.inv):
        assert isinstance(each, Transform)
        assert isinstance(each, distrax.Bijector)
        assert isinstance(each, fd.Bijector)


def test_every_leaf_is_a_float_array_and_has_a_readable_name(layer):
    for path, leaf in jax.tree_util.tree_flatten_with_path(layer)[0]:
        assert isinstance(leaf, jax.Array)
        assert jnp.issubdtype(leaf.dtype, jnp.floating)
        assert "<flat index" not in jax.tree_util.keystr(path) or "wrapped" in str(path)


@jax.jit
def log_probs(layer, value):
    """The density of one flow as four objects of three libraries give it."""
    shape = event_shape(layer)
    base = dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))
    normal = distrax.Independent(distrax.Normal(jnp.zeros(shape), jnp.ones(shape)), len(shape))
    return {
        "NumPyro": dist.TransformedDistribution(base, [layer]).log_prob(value),
        "Flow": fd.Flow(base, layer).log_prob(value),
        "distrax": distrax.Transformed(normal, layer).log_prob(value),
        "to_tfp": distrax.Transformed(normal, distrax.to_tfp(layer)).log_prob(value),
    }


def test_the_same_log_prob_in_both_frameworks(layer, result):
    """That of the formula, from the values that the tests of log-determinants check."""
    rows = slice(NUM_POINTS)  # central points
    x, log_det = result.x[0], result.singly["log_det"][rows]
    expected = -0.5 * (x**2 + np.log(2 * np.pi)).reshape(NUM_POINTS, -1).sum(-1) - log_det
    if layer.context_shape is not None:
        layer = fd.Conditioned(layer, contexts(layer))
    for name, log_prob in log_probs(layer, result.singly["y"][rows]).items():
        np.testing.assert_allclose(
            log_prob, expected, rtol=LOG_DET_F64, atol=LOG_DET_F64, err_msg=name
        )


def test_an_optimizer_step_needs_no_filter_and_compiles_once(layer, result):
    """Tracing says both: what a step gives has the structure and the types of what it takes."""
    optimizer = optax.adam(1e-2)
    context = None if layer.context_shape is None else contexts(layer)
    traces = []

    @jax.jit
    def step(layer, state):
        traces.append(None)

        def loss(layer):
            y, log_det = layer.forward_and_log_det(result.x[0], context)
            return jnp.mean(jnp.sin(y)) + log_det.mean()

        updates, state = optimizer.update(jax.grad(loss)(layer), state)
        return optax.apply_updates(layer, updates), state

    before = layer, optimizer.init(layer)
    after = jax.eval_shape(step, *before)
    for _ in range(2):
        after = jax.eval_shape(step, *after)
    assert len(traces) == 1
    assert jax.tree.structure(after) == jax.tree.structure(before)


def test_inverses_follow_updates_and_nothing_is_stored(layer):
    before = dict(vars(layer))
    inverse = layer.inv
    # The inverse of an inverse is what it holds, so that wrappers never pile up.
    assert inverse is layer.bijector if isinstance(layer, fd.Inverse) else inverse.inv is layer
    assert vars(layer) == before
    pairs = (jax.tree.leaves(tree) for tree in (moved_by_one(layer).inv, layer.inv))
    for moved, leaf in zip(*pairs, strict=True):
        np.testing.assert_array_equal(moved, np.asarray(leaf) + 1)


def test_survives_copies_and_transformations(layer):
    for restored in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert layer.eq(restored, static=True)
        pairs = zip(jax.tree.leaves(layer), jax.tree.leaves(restored), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    assert layer.same_as(jax.tree.map(lambda leaf: leaf, layer))
    assert jax.tree.structure(jax.eval_shape(lambda b: b, layer)) == jax.tree.structure(layer)
    leaves, structure = layer.tree_flatten()
    assert type(layer).tree_unflatten(structure, leaves).eq(layer, static=True)
    assert layer == layer
    assert hash(layer) == hash(layer)
    assert repr(layer)


def test_equality_is_that_of_all_parameters(layer):
    if not jax.tree.leaves(layer):
        pytest.skip("has no parameters")
    moved = moved_by_one(layer)
    assert not layer.eq(moved, static=True)
    equal = jax.jit(lambda a, b: a.eq(b))
    assert not equal(layer, moved)
    assert equal(layer, layer)


def test_traced_parameters_are_equal_to_themselves_alone(x64):
    layer = table.build("layer:affine_coupling")

    def compare(layer, other):
        same = jax.tree.map(lambda leaf: leaf, layer)
        assert layer.eq(same, static=True) is True
        assert layer.eq(other, static=True) is False

    jax.eval_shape(compare, layer, layer)


def test_stacked_parameters_can_be_vmapped(layer, result):
    points = [0, NUM_POINTS]  # a central and a tail point of the first context
    if layer.context_shape is not None:
        layer = fd.Conditioned(layer, contexts(layer)[0])
    stacked = jax.tree.map(lambda leaf: jnp.asarray(np.stack([leaf, leaf])), layer)
    run = lambda layer, x: layer.forward_and_log_det(x)
    size = 2 if jax.tree.leaves(layer) else None
    x = result.x.reshape(-1, *result.x.shape[2:])[points]
    y, log_det = jax.jit(jax.vmap(run, axis_size=size))(stacked, x)
    np.testing.assert_allclose(y, result.singly["y"][points], rtol=LOG_DET_F64, atol=LOG_DET_F64)
    np.testing.assert_allclose(
        log_det, result.singly["log_det"][points], rtol=LOG_DET_F64, atol=LOG_DET_F64
    )


def test_shapes_and_constraints(layer):
    assert layer.domain.event_dim == layer.event_ndims_in
    assert layer.codomain.event_dim == layer.event_ndims_out
    assert str(layer.inv.domain) == str(layer.codomain)
    if layer.event_shape is not None and layer.context_shape is None:
        shape = (2, *layer.event_shape)
        assert layer.forward_shape(shape) == (2, *layer.event_shape_out)
        assert layer.inverse_shape((2, *layer.event_shape_out)) == shape


def test_equality_asks_all_parameters():
    layer = fd.Affine(jnp.zeros(2), jnp.ones(2))
    other = fd.Affine(jnp.zeros(2), jnp.array([1.0, 2.0]))
    assert not layer.eq(other)
    assert not layer.eq(other, static=True)


def test_a_stack_is_a_sequence_of_its_layers():
    stack = table.build("layer:repeat")
    assert len(list(stack)) == len(stack) == 3
    assert stack[-1].eq(stack[2], static=True)
    z = jax.random.normal(jax.random.key(0), (4,))
    np.testing.assert_allclose(fd.Chain(list(stack))(z), stack(z), rtol=1e-5, atol=1e-6)
