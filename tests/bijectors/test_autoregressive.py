"""Autoregressive layers: the sweep against one pass per dimension, its cost and its derivatives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowdists.bijectors.autoregressive import MaskedAutoregressive
from flowdists.bijectors.repeat import Repeat
from flowdists.transformers import Affine, RationalQuadratic
from tests.table import perturb
from tests.tolerances import FINITE_DIFFERENCE_F64, GRADIENT_F64, LOG_DET_F64

SPLINE = RationalQuadratic(num_bins=4)
OPTIONS = {
    "affine": {"order": "descending"},
    "spline with context": {"transformer": SPLINE, "context_shape": (2,)},
    "residual spline with context": {
        "context_shape": (2,),
        "residual": True,
        "transformer": SPLINE,
        "order": (4, 0, 2, 1, 5, 3),
    },
    "unequal widths": {"hidden_sizes": (13, 7, 10), "order": (4, 0, 2, 1, 5, 3)},
    "narrow residual": {"hidden_sizes": (4, 4), "residual": True},
}


def make(key, event_shape=(6,), scale=0.3, **options):
    options = {"hidden_sizes": (12, 12), "activation": "silu", **options}
    return perturb(key, MaskedAutoregressive(key, event_shape, **options), scale)


@pytest.fixture(params=OPTIONS)
def case(request, key, x64):
    """A layer, inputs of the base side, a context or None."""
    layer = make(key, **OPTIONS[request.param])
    z = jax.random.normal(jax.random.key(1), (3, 6))
    if layer.context_shape is None:
        return layer, z, None
    return layer, z, jax.random.normal(jax.random.key(2), (3, *layer.context_shape))


def forward(layer, z, context=None):
    return layer.forward_and_log_det(z, context)


def one_pass_per_dimension(layer, z, context=None):
    """The usual way to sample: as many evaluations of the whole network as there are dimensions."""
    if context is not None:
        context = context.reshape(*context.shape[: context.ndim - len(layer.context_shape)], -1)
    order = jnp.array(layer.network.order)

    def step(i, x):
        x_new, _ = layer.transformer.forward(z, layer.network(x, context))
        return x.at[..., order[i]].set(x_new[..., order[i]])

    x = jax.lax.fori_loop(0, z.shape[-1], step, jnp.zeros_like(z))
    x, log_slope = layer.transformer.forward(z, layer.network(x, context))
    return x, log_slope.sum(-1)


def assert_close(actual, expected, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        actual,
        expected,
    )


def test_samples_equal_those_of_one_pass_per_dimension(case):
    expected = jax.jit(one_pass_per_dimension)(*case)
    assert_close(forward(*case), expected, 1e-10)
    layer, z, context = case
    x, log_det = forward(*case)
    assert_close(layer.inverse_and_log_det(x, context), (z, -log_det), 1e-10)


@pytest.mark.parametrize("transformer", [Affine(), SPLINE])
def test_samples_equal_in_single_precision(key, transformer):
    layer = make(key, (40,), 0.1, transformer=transformer, hidden_sizes=(100, 130))
    z = jax.random.normal(key, (16, 40))
    assert_close(forward(layer, z), jax.jit(one_pass_per_dimension)(layer, z), 1e-5)


def test_log_det_is_that_of_the_jacobian(case):
    layer, z, context = case

    def jacobian(direction, value):
        of_one = jax.jacfwd(lambda v, c: getattr(layer, direction)(v, c)[0])
        return jax.jit(jax.vmap(of_one))(value, context)

    x, log_det = forward(*case)
    _, inverse_log_det = layer.inverse_and_log_det(x, context)
    sampling = jacobian("forward_and_log_det", z)
    assert_close(np.linalg.slogdet(sampling)[1], log_det, LOG_DET_F64)
    density = jacobian("inverse_and_log_det", x)
    assert_close(np.linalg.slogdet(density)[1], inverse_log_det, LOG_DET_F64)
    order = np.array(layer.network.order)
    ordered = sampling[:, order][:, :, order]
    np.testing.assert_array_equal(np.triu(ordered, 1), 0)


def scalar(function):
    """A function of samples and log-determinants with no symmetry."""

    def loss(layer, z, context):
        x, log_det = function(layer, z, context)
        weights = jnp.linspace(-1.0, 2.0, x.size).reshape(x.shape)
        return jnp.sum(weights * jnp.sin(x)) + jnp.sum(log_det**2)

    return loss


def test_gradients_equal_those_through_one_pass_per_dimension(case):
    """By parameters, inputs and context at once, in reverse and in forward mode."""
    layer, z, context = case
    arguments = (layer, z) if context is None else (layer, z, context)
    directions = perturb(jax.random.key(3), jax.tree.map(jnp.zeros_like, arguments), 1.0)

    def derivatives(function):
        def loss(*arguments):
            return scalar(function)(*arguments, *[None] * (3 - len(arguments)))

        gradient = jax.grad(loss, argnums=tuple(range(len(arguments))))
        return gradient(*arguments), jax.jvp(loss, arguments, directions)[1]

    ours, plain = jax.jit(lambda: (derivatives(forward), derivatives(one_pass_per_dimension)))()
    assert_close(ours, plain, GRADIENT_F64)


def test_second_derivatives(key, x64):
    layer = make(key, transformer=SPLINE, hidden_sizes=(12,))
    z, v = jax.random.normal(key, (2, 3, 6))

    def second(function):
        def gradient(layer, z):
            return jax.grad(scalar(function), argnums=(0, 1))(layer, z, None)

        forward_over_reverse = jax.jvp(lambda z: gradient(layer, z), (z,), (v,))[1]
        reverse_over_reverse = jax.grad(lambda z: jnp.vdot(gradient(layer, z)[1], v))(z)
        return forward_over_reverse, reverse_over_reverse

    ours, plain = jax.jit(lambda: (second(forward), second(one_pass_per_dimension)))()
    assert_close(ours, plain, GRADIENT_F64)


def test_gradients_equal_finite_differences(key, x64):
    layer = make(key, context_shape=(2,), transformer=SPLINE)
    z, context = jax.random.normal(key, (3, 6)), jax.random.normal(key, (3, 2))
    direction = perturb(key, jax.tree.map(jnp.zeros_like, (layer, z, context)), 1.0)
    loss = jax.jit(scalar(forward))

    def along(t):
        moved = jax.tree.map(lambda a, d: a + t * d, (layer, z, context), direction)
        return loss(*moved)

    gradient = jax.jit(jax.grad(scalar(forward), argnums=(0, 1, 2)))(layer, z, context)
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)
    slope = sum(jax.tree.leaves(products))
    assert_close((along(1e-5) - along(-1e-5)) / 2e-5, slope, FINITE_DIFFERENCE_F64)


@pytest.mark.parametrize("batch_shape", [(), (3,), (2, 3)])
def test_batch_shapes_and_vmap(key, x64, batch_shape):
    layer = make(key, (2, 3), context_shape=(2,), residual=True)
    z = jax.random.normal(key, (*batch_shape, 2, 3))
    context = jax.random.normal(key, (2,))
    x, log_det = forward(layer, z, context)
    assert x.shape == z.shape
    assert log_det.shape == batch_shape

    def single(z):
        return forward(layer, z, context)

    for _ in batch_shape:
        single = jax.vmap(single)
    assert_close(single(z), (x, log_det), 1e-12)


def test_contexts_with_fewer_batch_axes(key, x64):
    layer = make(key, context_shape=(2,), residual=True)
    z, context = jax.random.normal(key, (4, 3, 6)), jax.random.normal(key, (3, 2))
    full = jnp.broadcast_to(context, (4, 3, 2))
    gradient = jax.jit(jax.grad(scalar(forward), argnums=2))
    assert_close(forward(layer, z, context), forward(layer, z, full), 1e-12)
    assert_close(gradient(layer, z, context), gradient(layer, z, full).sum(0), 1e-10)


def test_stacked_parameters(key, x64):
    """Under ``Repeat`` and under vmap over layers, with gradients."""

    def new(key):
        return MaskedAutoregressive(key, (6,), hidden_sizes=(12, 12), activation="silu")

    stack = perturb(key, Repeat(key, new, num_layers=2), 0.3)
    z = jax.random.normal(key, (5, 6))

    def in_a_loop(stack, z, _):
        total = 0.0
        for i in range(2):
            z, log_det = one_pass_per_dimension(stack[i], z)
            total = total + log_det
        return z, total

    def gradient(function):
        return jax.jit(jax.grad(scalar(function), argnums=(0, 1)))(stack, z, None)

    assert_close(forward(stack, z), in_a_loop(stack, z, None), 1e-10)
    assert_close(gradient(forward), gradient(in_a_loop), GRADIENT_F64)
    one_each = jax.vmap(forward, in_axes=(0, None))(stack.layers, z)
    assert_close(jax.tree.map(lambda a: a[1], one_each), forward(stack[1], z), 1e-12)


@pytest.mark.parametrize("context_shape", [None, (2,)])
def test_a_single_dimension(key, x64, context_shape):
    layer = make(key, (), context_shape=context_shape, transformer=SPLINE)
    context = None if context_shape is None else jnp.ones(2)
    z = jax.random.normal(key, (5,))
    x, log_det = forward(layer, z, context)
    assert x.shape == log_det.shape == (5,)
    assert_close(layer.inverse_and_log_det(x, context), (z, -log_det), 1e-10)


def multiply_adds(function, *arguments) -> int:
    """Multiply-adds of all matrix products in ``function``, trips of loops included."""

    def count(jaxpr) -> int:
        return sum(count_equation(equation) for equation in jaxpr.eqns)

    def count_equation(equation) -> int:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            return math.prod(out) * math.prod(left[i] for i in contracted)
        assert equation.primitive.name != "while", "a loop with an unknown number of trips"
        trips = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        return trips * sum(count(inner) for inner in inner_jaxprs(equation.params))

    def inner_jaxprs(params):
        for leaf in jax.tree.leaves(params, is_leaf=lambda v: hasattr(v, "eqns")):
            jaxpr = getattr(leaf, "jaxpr", leaf)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.mark.parametrize("transformer", [Affine(), RationalQuadratic()])
@pytest.mark.parametrize("size", [64, 256])
def test_sampling_does_at_most_twice_the_work_of_the_density(key, size, transformer):
    options = {"transformer": transformer, "hidden_sizes": (256, 256)}
    layer = MaskedAutoregressive(key, (size,), **options)
    x = jnp.zeros((32, size))
    density = multiply_adds(layer.inverse_and_log_det, x)
    network = 256 * (size + 256 + size * transformer.num_params)
    assert density == 32 * network
    assert density / 4 < multiply_adds(layer.forward_and_log_det, x) <= 2 * density


def test_the_sweep_stores_nothing_for_the_gradient(key):
    """Plain autodiff would store the activations of every step: size times as much."""
    layer = MaskedAutoregressive(key, (31,), hidden_sizes=(120, 120))
    x = jnp.zeros((256, 31))

    def temporary(direction):
        def loss(layer, x):
            return sum(jnp.sum(out**2) for out in getattr(layer, direction)(x))

        compiled = jax.jit(jax.grad(loss)).lower(layer, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary("forward_and_log_det") < 4 * temporary("inverse_and_log_det")


def test_a_new_layer_is_the_identity(key):
    layer = MaskedAutoregressive(key, (5,), context_shape=(2,))
    z = jax.random.normal(key, (3, 5))
    assert_close(forward(layer, z, jnp.ones(2)), (z, jnp.zeros(3)), 0.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": (0, 0, 1)}, ValueError, r"`order` must be a permutation of range\(3\), got"),
        ({"order": "random"}, ValueError, "`order` must be one of"),
        ({"event_shape": (3, 0)}, ValueError, "`event_shape` must be .* got"),
        ({"context_shape": (-1,)}, ValueError, "`context_shape` must be .* got"),
        ({"transformer": "affine"}, TypeError, "`transformer` must be a Transformer, got 'affine'"),
        ({"key": 0}, TypeError, "`key` must be one PRNG key"),
    ],
)
def test_errors_name_the_argument(key, options, error, message):
    with pytest.raises(error, match=message):
        MaskedAutoregressive(**{"key": key, "event_shape": (3,), **options})
