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
from numpyro.distributions import constraints
from numpyro.distributions.transforms import ComposeTransform, IndependentTransform, Transform

import flowdists as fd
from tests import table
from tests.bijectors.evaluation import NUM_POINTS, contexts, evaluation, event_shape
from tests.tolerances import LOG_DET_F64


def vector_layer():
    return table.build("layer:affine_coupling")


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
    assert public - {fd.Bijector} <= set(table.OF_CLASS)


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
    optimizer = optax.adam(1e-2)
    traces = []

    @jax.jit
    def step(layer, state):
        traces.append(None)
        loss = lambda layer: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(layer)) + 0.0
        updates, state = optimizer.update(jax.grad(loss)(layer), state)
        return optax.apply_updates(layer, updates), state

    stepped, state = layer, jax.jit(optimizer.init)(layer)
    for _ in range(3):
        stepped, state = step(stepped, state)
    assert len(traces) == 1
    assert jax.tree.structure(stepped) == jax.tree.structure(layer)


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


def test_no_tracer_leaks():
    layer = table.build("layer:repeat")
    with jax.checking_leaks():
        jax.jit(lambda b, x: fd.Flow(fd.StandardNormal((4,)), b).log_prob(x))(layer, jnp.ones(4))


def test_shapes_and_constraints(layer):
    assert layer.domain.event_dim == layer.event_ndims_in
    assert layer.codomain.event_dim == layer.event_ndims_out
    assert str(layer.inv.domain) == str(layer.codomain)
    if layer.event_shape is not None and layer.context_shape is None:
        shape = (2, *layer.event_shape)
        assert layer.forward_shape(shape) == (2, *layer.event_shape_out)
        assert layer.inverse_shape((2, *layer.event_shape_out)) == shape


def test_shapes_of_a_foreign_layer_that_changes_them():
    simplex = fd.to_support(constraints.simplex)
    assert simplex.forward_shape((5, 2)) == (5, 3)
    assert simplex.inverse_shape((5, 3)) == (5, 2)


def test_a_chain_has_the_sides_of_its_ends():
    images = jax.eval_shape(table.EVERY["layer:multi_scale"].make, jax.random.key(0))
    chain = fd.Chain([fd.Affine(jnp.zeros(16), jnp.ones(16)), images])
    assert chain.event_ndims_in == 1
    assert chain.event_ndims_out == 3
    assert chain.domain == constraints.real_vector
    assert chain.codomain.event_dim == 3


def test_layers_of_a_chain_take_one_context():
    layers = [
        jax.eval_shape(
            lambda key, n=n: fd.AffineCoupling(key, (2,), context_shape=(n,)), jax.random.key(0)
        )
        for n in (1, 2)
    ]
    with pytest.raises(ValueError, match=r"Chain: .* one context shape, got \[\(1,\), \(2,\)\]"):
        fd.Chain(layers)


def test_wrappers_have_the_sides_of_what_they_hold():
    layer = fd.Chain(
        [
            fd.AffineCoupling(jax.random.key(0), (2,), context_shape=(1,), **table.SMALL),
            fd.to_support(constraints.positive),
        ]
    )
    wrapped = fd.Conditioned(layer, np.ones(1))
    assert str(wrapped.domain) == str(layer.domain)
    assert str(wrapped.codomain) == str(layer.codomain) != str(layer.domain)


def test_equality_asks_all_parameters():
    layer = fd.Affine(jnp.zeros(2), jnp.ones(2))
    other = fd.Affine(jnp.zeros(2), jnp.array([1.0, 2.0]))
    assert not layer.eq(other)
    assert not layer.eq(other, static=True)


def test_unbounded_layers_use_numpyro_singletons():
    assert fd.Affine(jnp.array(0.0), jnp.array(1.0)).domain is constraints.real
    assert fd.ActNorm((3,)).codomain is constraints.real_vector
    assert fd.Reverse((3, 2)).codomain is constraints.real_matrix
    assert fd.ActNorm((2, 2, 2)).domain.event_dim == 3


def test_call_with_intermediates_saves_the_second_pass():
    calls = []

    class Counting(fd.Bijector):
        event_shape: tuple = fd.static()

        def forward_and_log_det(self, x, context=None):
            calls.append("forward")
            return x, jnp.zeros(x.shape[:-1])

        def inverse_and_log_det(self, y, context=None):
            calls.append("inverse")
            return y, jnp.zeros(y.shape[:-1])

    flow = fd.Flow(fd.StandardNormal((2,)), Counting((2,)))
    x, intermediates = flow.sample_with_intermediates(jax.random.key(0), (3,))
    flow.log_prob(x, intermediates)
    assert calls == ["forward"]
    flow.sample_and_log_prob(jax.random.key(0))
    assert calls == ["forward"] * 2
    jax.grad(lambda x: flow.log_prob(x).sum())(x)
    assert calls == ["forward"] * 2 + ["inverse"]
    flow.to_distrax().sample_and_log_prob(seed=jax.random.key(0))
    assert calls[3:] == ["forward"]


def test_the_log_det_uses_the_cheap_direction():
    layer = table.build("layer:autoregressive")

    def has_loop(layer):
        jaxpr = jax.make_jaxpr(layer.log_abs_det_jacobian)(jnp.ones(4), jnp.ones(4))
        return "scan" in str(jaxpr)

    assert not has_loop(layer)
    assert not has_loop(layer.inv)
    assert not has_loop(fd.Chain([layer, fd.Reverse((4,))]))


def test_a_stack_takes_a_function_that_makes_layers():
    with pytest.raises(TypeError, match=r"`make_layer` must be .* got Reverse"):
        fd.Repeat(jax.random.key(0), fd.Reverse((3,)), 2)


def test_linear_layers_start_at_what_is_known():
    with pytest.raises(ValueError, match="`start` must be one of"):
        fd.LULinear(jax.random.key(0), (3,), start="orthogonal")


def test_only_transforms_are_foreign_layers():
    with pytest.raises(TypeError, match=r"`transform` must be .* got str"):
        fd.Foreign("exp")


def test_a_stack_is_a_sequence_of_its_layers():
    stack = table.build("layer:repeat")
    assert len(list(stack)) == len(stack) == 3
    assert stack[-1].eq(stack[2], static=True)
    z = jax.random.normal(jax.random.key(0), (4,))
    np.testing.assert_allclose(fd.Chain(list(stack))(z), stack(z), rtol=1e-5, atol=1e-6)


def test_nesting_in_both_frameworks():
    layer, scalar = vector_layer(), fd.RationalQuadraticSpline(())
    x = jax.random.normal(jax.random.key(0), (3, 5))
    y, log_det = layer.forward_and_log_det(x)
    # distrax composes right to left, NumPyro left to right.
    chained = distrax.Chain([layer, distrax.Inverse(layer), distrax.Block(scalar, 1), layer])
    np.testing.assert_allclose(distrax.Chain([layer, layer]).forward(x), layer(y), rtol=1e-5)
    np.testing.assert_allclose(chained.forward_and_log_det(x)[1], log_det, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(distrax.Inverse(layer).forward(y), x, rtol=1e-4, atol=1e-5)
    composed = ComposeTransform([layer, IndependentTransform(scalar, 1), layer.inv])
    np.testing.assert_allclose(composed(x), x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        composed.log_abs_det_jacobian(x, composed(x)), jnp.zeros(3), atol=1e-4
    )


def test_numpyro_transforms_the_batch_of_a_scalar_layer():
    flow = fd.Flow(dist.Normal(jnp.zeros(3), 1.0), fd.RationalQuadraticSpline(()))
    assert flow.batch_shape == (3,)
    assert flow.event_shape == ()
    assert flow.log_prob(jnp.zeros((2, 3))).shape == (2, 3)


class TestAuthors:
    def test_missing_methods_fail_at_construction(self):
        class Half(fd.Bijector):
            event_shape: tuple = fd.static()

            def forward_and_log_det(self, x, context=None):
                return x, jnp.zeros(x.shape[:-1])

        with pytest.raises(TypeError, match="inverse_and_log_det"):
            Half((2,))

    def test_half_a_layer_needs_no_event_shape(self):
        class OneWay(fd.Bijector):
            def inverse_and_log_det(self, y, context=None):
                return y, jnp.zeros(y.shape[:-1])

        with pytest.raises(TypeError, match="forward_and_log_det"):
            OneWay()

    @pytest.mark.parametrize("shape", [(), (2,)])
    def test_a_log_det_of_another_shape_is_broadcast_or_refused(self, shape):
        class Doubling(fd.Bijector):
            event_shape: tuple = fd.static(default=(2,))

            def forward_and_log_det(self, x, context=None):
                return 2 * x, jnp.full(shape, 2 * jnp.log(2.0))

            def inverse_and_log_det(self, y, context=None):
                return y / 2, jnp.full(shape, -2 * jnp.log(2.0))

        flow = fd.Flow(fd.StandardNormal((3, 2)), Doubling())
        if shape == ():
            expected = dist.Normal(0, 2).log_prob(jnp.zeros((3, 2))).sum()
            np.testing.assert_allclose(flow.log_prob(jnp.zeros((3, 2))), expected, rtol=1e-6)
        else:
            with pytest.raises(ValueError, match="batch shape"):
                flow.log_prob(jnp.zeros((3, 2)))

    def test_a_layer_without_fields_takes_no_arguments(self):
        class Negative(fd.Bijector):
            event_shape = None
            event_ndims_in = event_ndims_out = 0

            def forward_and_log_det(self, x, context=None):
                return -x, jnp.zeros_like(x)

            def inverse_and_log_det(self, y, context=None):
                return -y, jnp.zeros_like(y)

        assert Negative()(jnp.array(2.0)) == -2.0
        assert jax.tree.leaves(Negative()) == []

    def test_a_missing_event_shape_fails_at_definition(self):
        with pytest.raises(TypeError, match="event_shape"):

            class Shapeless(fd.Bijector):
                def forward_and_log_det(self, x, context=None):
                    return x, x

                def inverse_and_log_det(self, y, context=None):
                    return y, y

    def test_static_defaults_do_not_hide_behind_to_tfp(self):
        class Power(fd.Bijector):
            exponent: int = fd.static(default=1)

            @property
            def event_shape(self):
                return ()

            def forward_and_log_det(self, x, context=None):
                return x**self.exponent, jnp.log(self.exponent * x ** (self.exponent - 1))

            def inverse_and_log_det(self, y, context=None):
                x = y ** (1 / self.exponent)
                return x, -jnp.log(self.exponent * x ** (self.exponent - 1))

        wrapped = distrax.to_tfp(Power(3))
        np.testing.assert_allclose(wrapped.inverse(jnp.array(8.0)), 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda b: b.forward(jnp.ones(4)), ValueError, ["`x`", "(4,)", "(*batch, 5)"]),
        (lambda b: b.inverse(jnp.array(1.0)), ValueError, ["`y`", "()", "(*batch, 5)"]),
        (lambda b: b.forward(jnp.ones(5, int)), TypeError, ["`x`", "int32", "floating"]),
        (lambda b: b.forward("abc"), TypeError, ["`x`", "str"]),
        (
            lambda b: b.forward_and_log_det(jnp.ones(5), jnp.ones(2)),
            ValueError,
            ["`context`", "(2,)", "None"],
        ),
        (lambda b: b.forward_shape((3, 4)), ValueError, ["`shape`", "(3, 4)", "(*batch, 5)"]),
    ],
)
def test_misuse_names_argument_given_and_expected(call, error, words):
    with pytest.raises(error) as raised:
        call(vector_layer())
    for word in words:
        assert word in str(raised.value)
