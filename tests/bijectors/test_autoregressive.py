"""Autoregressive layers: the sweep against one pass per dimension, its cost and its derivatives."""

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowdists.bijectors.autoregressive import MaskedAutoregressive
from flowdists.bijectors.compose.repeat import Repeat
from flowdists.transformers import RationalQuadratic, ShiftScale, Transformer
from tests.draws import drawn, normal
from tests.table import perturb
from tests.tolerances import GRADIENT_F64, LOG_DET_F64

SPLINE = RationalQuadratic(num_bins=4)


@dataclass(frozen=True)
class Curved(Transformer):
    """``exp(r) sinh(arcsinh(x) + s)``: as curved as a spline, in a program of a tenth the size."""

    @property
    def num_params(self):
        return 2

    def forward(self, x, params):
        x, (shift, log_scale) = self._as_arrays(x, params)
        u = jnp.arcsinh(x) + shift
        return jnp.exp(log_scale) * jnp.sinh(u), log_scale + self._log_slope(u, x)

    def inverse(self, y, params):
        y, (shift, log_scale) = self._as_arrays(y, params)
        y = jnp.exp(-log_scale) * y
        u = jnp.arcsinh(y) - shift
        return jnp.sinh(u), self._log_slope(u, y) - log_scale

    @staticmethod
    def _log_slope(u, value):
        return jnp.log(jnp.cosh(u)) - 0.5 * jnp.log1p(value**2)


# Levels of equal widths are one loop each; unequal ones take several.
OPTIONS = {
    "affine": {"order": "descending"},
    "curved with context": {
        "transformer": Curved(),
        "context_shape": (1, 2),
        "hidden_sizes": (12, 6),
    },
    "residual with context": {
        "context_shape": (2,),
        "residual": True,
        "transformer": Curved(),
        "hidden_sizes": (6,),
        "order": (4, 0, 2, 1, 5, 3),
    },
    "unequal widths": {
        "hidden_sizes": (13, 7),
        "order": (4, 0, 2, 1, 5, 3),
        "transformer": Curved(),
    },
    "narrow residual": {"hidden_sizes": (4, 4), "residual": True},
}


def new(key, event_shape=(6,), **options):
    options = {"hidden_sizes": (10, 10), "activation": "silu", **options}
    return MaskedAutoregressive(key, event_shape, **options)


def make(event_shape=(6,), scale=0.4, make=new, **options):
    """A layer whose parameters are drawn by NumPy."""
    return drawn(functools.partial(make, event_shape=event_shape, **options), scale)


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


def scalar(function):
    """A function of samples and log-determinants with no symmetry."""

    def loss(layer, z, context):
        x, log_det = function(layer, z, context)
        weights = np.linspace(-1.0, 2.0, x.size).reshape(x.shape)
        return jnp.sum(weights * jnp.sin(x)) + jnp.sum(log_det**2)

    return loss


class Case(NamedTuple):
    """What one of the layers above computes: outputs with log-determinants, and derivatives."""

    order: tuple[int, ...]
    z: Any
    sampled: Any
    sampled_slowly: Any
    undone: Any
    jacobian: Any
    inverse_jacobian: Any
    derivatives: Any
    derivatives_slowly: Any


@functools.cache
def evaluated(name):
    """All of it from one compiled program. In double precision, as its tests are."""
    layer, z = make(**OPTIONS[name]), normal(1, (3, 6))
    has_context = layer.context_shape is not None
    context = normal(2, (3, *layer.context_shape)) if has_context else None
    arguments = (layer, z, context) if has_context else (layer, z)
    directions = perturb(jax.random.key(3), jax.tree.map(np.zeros_like, arguments), 1.0)

    def derivatives(function, arguments):
        def loss(*arguments):
            return scalar(function)(*arguments, *[None] * (3 - len(arguments)))

        gradient = jax.grad(loss, argnums=tuple(range(len(arguments))))
        return gradient(*arguments), jax.jvp(loss, arguments, directions)[1]

    def jacobian(direction, value, context):
        of_one = jax.jacfwd(lambda v, c: direction(v, c)[0])
        return jax.vmap(of_one)(value, context)

    @jax.jit
    def everything(layer, z, context):
        arguments = (layer, z, context) if has_context else (layer, z)
        sampled = forward(layer, z, context)
        return (
            sampled,
            one_pass_per_dimension(layer, z, context),
            layer.inverse_and_log_det(sampled[0], context),
            jacobian(layer.forward_and_log_det, z, context),
            jacobian(layer.inverse_and_log_det, sampled[0], context),
            derivatives(forward, arguments),
            derivatives(one_pass_per_dimension, arguments),
        )

    results = jax.tree.map(np.asarray, everything(layer, z, context))
    return Case(layer.network.order, np.asarray(z), *results)


@pytest.fixture(params=OPTIONS)
def case(request, x64):
    return evaluated(request.param)


def test_samples_equal_those_of_one_pass_per_dimension(case):
    assert_close(case.sampled, case.sampled_slowly, 1e-10)
    assert_close(case.undone, (case.z, -case.sampled[1]), 1e-10)


def test_log_det_is_that_of_the_jacobian(case):
    assert_close(np.linalg.slogdet(case.jacobian)[1], case.sampled[1], LOG_DET_F64)
    assert_close(np.linalg.slogdet(case.inverse_jacobian)[1], case.undone[1], LOG_DET_F64)
    order = np.array(case.order)
    ordered = case.jacobian[:, order][:, :, order]
    np.testing.assert_array_equal(np.triu(ordered, 1), 0)


def test_gradients_equal_those_through_one_pass_per_dimension(case):
    """By parameters, inputs and context at once, in reverse and in forward mode."""
    assert_close(case.derivatives, case.derivatives_slowly, GRADIENT_F64)


def test_samples_equal_in_single_precision():
    """Of an event long enough for loops to be cut in two."""
    layer = make((20,), 0.15, transformer=SPLINE, hidden_sizes=(19, 30))
    z = normal(0, (16, 20))
    both = jax.jit(lambda layer, z: (forward(layer, z), one_pass_per_dimension(layer, z)))
    assert_close(*both(layer, z), 1e-5)


def test_second_derivatives(x64):
    layer = make(transformer=Curved(), hidden_sizes=(5,))
    z, v = normal(0, (2, 3, 6))

    def second(function, layer, z):
        def gradient(layer, z):
            return jax.grad(scalar(function), argnums=(0, 1))(layer, z, None)

        forward_over_reverse = jax.jvp(lambda z: gradient(layer, z), (z,), (v,))[1]
        reverse_over_reverse = jax.grad(lambda z: jnp.vdot(gradient(layer, z)[1], v))(z)
        return forward_over_reverse, reverse_over_reverse

    both = jax.jit(lambda *args: (second(forward, *args), second(one_pass_per_dimension, *args)))
    assert_close(*both(layer, z), GRADIENT_F64)


def test_batches_are_vmaps_and_contexts_may_have_fewer_axes(x64):
    layer = make((2, 3), context_shape=(2,), residual=True, hidden_sizes=(6,))
    z, context = normal(0, (4, 3, 2, 3)), normal(1, (3, 2))

    @jax.jit
    def run(layer, z, context):
        full = jnp.broadcast_to(context, (4, 3, 2))
        gradient = jax.grad(scalar(forward), argnums=2)
        one_each = jax.vmap(jax.vmap(forward, (None, 0, 0)), (None, 0, None))(layer, z, context)
        return (
            (forward(layer, z, context), gradient(layer, z, context)),
            (forward(layer, z, full), gradient(layer, z, full).sum(0)),
            one_each,
        )

    (batched, slope), (with_full, slope_with_full), one_each = run(layer, z, context)
    assert batched[0].shape == z.shape and batched[1].shape == (4, 3)
    assert_close(batched, with_full, 1e-12)
    assert_close(batched, one_each, 1e-12)
    assert_close(slope, slope_with_full, 1e-10)


def test_stacked_parameters(x64):
    """Under ``Repeat`` and under vmap over layers, with gradients."""

    def stack_of_two(key, event_shape):
        return Repeat(key, lambda key: new(key, event_shape), num_layers=2)

    stack, z = make((4,), make=stack_of_two), normal(0, (5, 4))

    def in_a_loop(stack, z, _):
        total = 0.0
        for i in range(2):
            z, log_det = one_pass_per_dimension(stack[i], z)
            total = total + log_det
        return z, total

    @jax.jit
    def run(stack, z):
        ours, loop = (
            (function(stack, z, None), jax.grad(scalar(function), argnums=(0, 1))(stack, z, None))
            for function in (forward, in_a_loop)
        )
        one_each = jax.vmap(forward, in_axes=(0, None))(stack.layers, z)
        return ours, loop, jax.tree.map(lambda a: a[1], one_each), forward(stack[1], z)

    (ours, gradient), (loop, loop_gradient), second, expected = run(stack, z)
    assert_close(ours, loop, 1e-10)
    assert_close(gradient, loop_gradient, GRADIENT_F64)
    assert_close(second, expected, 1e-12)


@pytest.mark.parametrize("context_shape", [None, (2,)])
def test_a_single_dimension(x64, context_shape):
    layer = make((), context_shape=context_shape, transformer=SPLINE)
    context = None if context_shape is None else np.ones(2)
    z = normal(0, (5,))

    @jax.jit
    def there_and_back(layer, z):
        x, log_det = forward(layer, z, context)
        return x, log_det, layer.inverse_and_log_det(x, context)

    x, log_det, back = there_and_back(layer, z)
    assert x.shape == log_det.shape == (5,)
    assert np.abs(log_det).min() > 1e-3
    assert_close(back, (z, -np.asarray(log_det)), 1e-10)


def shapes(**options):
    """A layer of shapes in place of arrays."""
    return jax.eval_shape(functools.partial(new, **options), jax.random.key(0))


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


@pytest.mark.parametrize("transformer", [ShiftScale(), RationalQuadratic()])
@pytest.mark.parametrize("size", [64, 256])
def test_sampling_does_at_most_twice_the_work_of_the_density(size, transformer):
    layer = shapes(event_shape=(size,), transformer=transformer, hidden_sizes=(256, 256))
    x = jax.ShapeDtypeStruct((32, size), np.float32)
    density = multiply_adds(lambda layer, x: layer.inverse_and_log_det(x), layer, x)
    network = 256 * (size + 256 + size * transformer.num_params)
    assert density == 32 * network
    assert density / 4 < multiply_adds(forward, layer, x) <= 2 * density


def test_the_sweep_stores_nothing_for_the_gradient():
    """Plain autodiff would store the activations of every step: size times as much."""
    layer = shapes(event_shape=(31,), hidden_sizes=(120, 120))
    x = jax.ShapeDtypeStruct((256, 31), np.float32)

    def temporary(direction):
        def loss(layer, x):
            return sum(jnp.sum(out**2) for out in getattr(layer, direction)(x))

        compiled = jax.jit(jax.grad(loss)).lower(layer, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary("forward_and_log_det") < 4 * temporary("inverse_and_log_det")


def test_a_new_layer_is_the_identity(key):
    z = np.linspace(-2.0, 2.0, 15, dtype=np.float32).reshape(3, 5)
    run = jax.jit(lambda key, z: forward(new(key, (5,), context_shape=(2,)), z, jnp.ones(2)))
    assert_close(run(key, z), (z, np.zeros(3)), 0.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": (0, 0, 1)}, ValueError, r"`order` must be a permutation of range\(3\), got"),
        ({"order": "random"}, ValueError, "`order` must be one of"),
        ({"event_shape": (3, 0)}, ValueError, "`event_shape` must be .* got"),
        ({"context_shape": (-1,)}, ValueError, "`context_shape` must be .* got"),
        ({"transformer": "affine"}, TypeError, "`transformer` must be a Transformer, got 'affine'"),
        ({"key": 0}, TypeError, "MaskedAutoregressive: `key` must be one PRNG key"),
    ],
)
def test_errors_name_the_argument(key, options, error, message):
    with pytest.raises(error, match=message):
        MaskedAutoregressive(**{"key": key, "event_shape": (3,), **options})
