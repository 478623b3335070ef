r"""Autoregressive sampling by one sweep, differentiated by the implicit function theorem.

Sampling solves :math:`f(x; \theta) = z` for :math:`x`, where :math:`f` is the density direction.
So :math:`\dot x = J^{-1} (\dot z - f_\theta \dot\theta)` with :math:`J = \partial f / \partial x`,
which is triangular: both :math:`J^{-1}` and its transpose are sweeps themselves. The backward pass
stores nothing of the sampling sweep, only one evaluation of the network, as in the density
direction.

All arrays here have features first, in the order of generation, and batch axes last.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from flowdists.bijectors.autoregressive.sweep import Read, Stage, Write, sweep
from flowdists.networks._levels import Architecture
from flowdists.networks.base import Array, resolve_activation
from flowdists.networks.made import Layers, evaluate
from flowdists.transformers import Transformer


def normalize(
    architecture: Architecture, transformer: Transformer, layers: Layers, x: Array
) -> tuple[Array, Array]:
    """The density direction, one evaluation of the network.

    Args:
      architecture: the network's.
      transformer: the scalar maps.
      layers: the network's weights.
      x: ``(event_size, *batch)``.

    Returns:
      ``z`` of ``x``'s shape and ``log|det dz/dx|`` of shape ``batch``.
    """
    z, log_slope = transformer.inverse(x, evaluate(architecture, layers, x))
    return z, log_slope.sum(axis=0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _generate(
    architecture: Architecture, transformer: Transformer, layers: Layers, z: Array
) -> tuple[Array, Array]:
    """The sampling direction: ``x`` with ``normalize(..., x)[0] == z``, and ``log|det dx/dz|``.

    Arguments and shapes are as in :func:`normalize`. It costs about one evaluation of the network,
    and can be differentiated any number of times, in forward and in reverse mode.
    """
    activation = resolve_activation(architecture.activation)
    stages = _stages(architecture, layers.weights)
    offsets = (*layers.offsets[:-1], _element_major(architecture, layers.offsets[-1]))
    inputs = (z, offsets, layers.gates)
    sizes = (
        architecture.input_sizes,
        tuple(stage.row_sizes for stage in stages),
        _gate_sizes(architecture, layers),
    )

    def body(read: Read, write: Write, blocks: Any) -> tuple[Array, Array]:
        z, offsets, gates = blocks

        def linear(k: int, h: Array | None) -> Array:
            if h is not None:
                write(k, h)
            return read(k) + offsets[k]

        params = architecture.run(
            linear,
            lambda k, h: activation(h),
            lambda block, h: h * gates[block] if gates else h,
            None,
        )
        params = params.reshape(len(z), architecture.num_params, *z.shape[1:]).swapaxes(0, 1)
        x, log_slope = transformer.forward(z, params)
        write(0, x)
        return x, log_slope

    x, log_slope = sweep(stages, inputs, sizes, body, z)
    return x, log_slope.sum(axis=0)


# Compiled here, because outside of `jit` every call would compile the scan again.
generate = jax.jit(_generate, static_argnums=(0, 1))


@functools.partial(_generate.defjvp, symbolic_zeros=True)
def _generate_jvp(
    architecture: Architecture,
    transformer: Transformer,
    primals: tuple[Layers, Array],
    tangents: tuple[Any, Any],
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    layers, z = primals
    layers_dot, z_dot = tangents
    x, log_det = generate(architecture, transformer, layers, z)
    at_x = _Derivatives.at(architecture, transformer, layers, x)

    right_side = _instantiate(z_dot)
    params_dot: Any = 0.0
    if not all(isinstance(t, SymbolicZero) for t in jax.tree.leaves(layers_dot)):
        params_dot = _push_layers(architecture, layers, layers_dot, at_x)
        right_side = right_side - jnp.sum(at_x.z_params * params_dot, axis=0)

    x_dot = jax.lax.custom_linear_solve(
        lambda v: (
            at_x.z_x * v + jnp.sum(at_x.z_params * _push_x(architecture, layers, v, at_x), axis=0)
        ),
        right_side,
        solve=lambda _, b: _solve(architecture, layers, at_x, b),
        transpose_solve=lambda _, b: _solve_transposed(architecture, layers, at_x, b),
    )
    params_dot = params_dot + _push_x(architecture, layers, x_dot, at_x)
    log_slope_dot = at_x.log_slope_x * x_dot + jnp.sum(at_x.log_slope_params * params_dot, axis=0)
    return (x, log_det), (x_dot, -log_slope_dot.sum(axis=0))


class _Derivatives(NamedTuple):
    """One evaluation of the density direction, and all of its scalar derivatives.

    Attributes:
      inputs: the input of each linear layer.
      slopes: the activation's derivative before each linear layer but the first.
      updates: the input of each residual block's gate.
      z_x, log_slope_x: derivatives by ``x``, given the parameters; ``(event_size, *batch)``.
      z_params, log_slope_params: by the parameters, ``(num_params, event_size, *batch)``.
    """

    inputs: tuple[Array, ...]
    slopes: tuple[Array, ...]
    updates: tuple[Array, ...]
    z_x: Array
    z_params: Array
    log_slope_x: Array
    log_slope_params: Array

    @classmethod
    def at(
        cls, architecture: Architecture, transformer: Transformer, layers: Layers, x: Array
    ) -> _Derivatives:
        activation = resolve_activation(architecture.activation)
        inputs, slopes, updates = [], [], []

        def linear(k: int, h: Array) -> Array:
            inputs.append(h)
            return jnp.tensordot(layers.weights[k], h, 1) + layers.offsets[k]

        def activate(k: int, h: Array) -> Array:
            h, slope = jax.jvp(activation, (h,), (jnp.ones_like(h),))
            slopes.append(slope)
            return h

        def gate(block: int, h: Array) -> Array:
            updates.append(h)
            return h * layers.gates[block] if layers.gates else h

        params = architecture.run(linear, activate, gate, x)
        params = params.reshape(architecture.num_params, *x.shape)
        # Scalar maps: a cotangent of ones gives every element's own derivative.
        (z, log_slope), pull = jax.vjp(transformer.inverse, x, params)
        by_z = pull((jnp.ones_like(z), jnp.zeros_like(log_slope)))
        by_log_slope = pull((jnp.zeros_like(z), jnp.ones_like(log_slope)))
        return cls(tuple(inputs), tuple(slopes), tuple(updates), *by_z, *by_log_slope)


def _push_x(architecture: Architecture, layers: Layers, v: Array, at_x: _Derivatives) -> Array:
    """The tangent of the parameters for the tangent ``v`` of ``x``."""
    params = architecture.run(
        lambda k, h: jnp.tensordot(layers.weights[k], h, 1),
        lambda k, h: h * at_x.slopes[k - 1],
        lambda block, h: h * layers.gates[block] if layers.gates else h,
        v,
    )
    return params.reshape(architecture.num_params, *v.shape)


def _push_layers(
    architecture: Architecture, layers: Layers, layers_dot: Any, at_x: _Derivatives
) -> Array:
    """The tangent of the parameters for the tangent ``layers_dot`` of the layers, at fixed x."""

    def linear(k: int, h: Array | None) -> Array:
        result = _instantiate(layers_dot.offsets[k])
        if h is not None:
            result = result + jnp.tensordot(layers.weights[k], h, 1)
        if not isinstance(layers_dot.weights[k], SymbolicZero):
            result = result + jnp.tensordot(layers_dot.weights[k], at_x.inputs[k], 1)
        return result

    def gate(block: int, h: Array) -> Array:
        if not layers.gates:
            return h
        return h * layers.gates[block] + at_x.updates[block] * _instantiate(layers_dot.gates[block])

    params = architecture.run(linear, lambda k, h: h * at_x.slopes[k - 1], gate, None)
    shape = (architecture.num_params, architecture.event_size, *params.shape[1:])
    return params.reshape(shape)


def _solve(architecture: Architecture, layers: Layers, at_x: _Derivatives, b: Array) -> Array:
    """``J^{-1} b``: the sampling sweep, linearized."""
    stages = _stages(architecture, layers.weights)
    inputs, sizes = _linear_inputs(architecture, layers, at_x, b)

    def body(read: Read, write: Write, blocks: Any) -> Array:
        b, z_x, z_params, slopes, gates = blocks

        def linear(k: int, h: Array | None) -> Array:
            if h is not None:
                write(k, h)
            return read(k)

        params = architecture.run(
            linear,
            lambda k, h: h * slopes[k - 1],
            lambda block, h: h * gates[block] if gates else h,
            None,
        )
        v = (b - jnp.sum(z_params * params.reshape(z_params.shape), axis=1)) / z_x
        write(0, v)
        return v

    return sweep(stages, inputs, sizes, body, b)


def _solve_transposed(
    architecture: Architecture, layers: Layers, at_x: _Derivatives, b: Array
) -> Array:
    """``J^{-T} b``: backpropagation, from the last level to the first."""
    flipped = [
        Stage(s.weight.T[::-1, ::-1], s.column_sizes[::-1], s.row_sizes[::-1])
        for s in _stages(architecture, layers.weights)
    ]
    inputs, sizes = jax.tree.map(lambda a: a[::-1], _linear_inputs(architecture, layers, at_x, b))
    last = len(flipped) - 1

    def body(read: Read, write: Write, blocks: Any) -> Array:
        b, z_x, z_params, slopes, gates = blocks

        def pull(k: int, h: Array) -> Array:
            write(k, h)
            return read(k) * slopes[k - 1]

        w = (b - read(0)) / z_x
        # All features of a stage are flipped, so the parameters within an element are, too.
        by_param = (z_params * w[:, None])[:, ::-1]
        features = len(w) * architecture.num_params
        h = pull(last, by_param.reshape(features, *w.shape[1:]))
        if architecture.residual:
            for block in reversed(range(last // 2)):
                first, second = 2 * block + 1, 2 * block + 2
                update = h * gates[block] if gates else h
                h = h + pull(first, pull(second, update))
        else:
            for k in reversed(range(1, last)):
                h = pull(k, h)
        write(0, h)
        return w

    return sweep(flipped, inputs, sizes, body, b)[::-1]


def _linear_inputs(
    architecture: Architecture, layers: Layers, at_x: _Derivatives, b: Array
) -> tuple[Any, Any]:
    """The inputs of both linear sweeps, and how many features of each belong to each level."""
    by_element = (b, at_x.z_x, at_x.z_params.swapaxes(0, 1))
    return (*by_element, at_x.slopes, layers.gates), (
        *[architecture.input_sizes] * len(by_element),
        architecture.unit_sizes[1:],
        _gate_sizes(architecture, layers),
    )


def _stages(architecture: Architecture, weights: tuple[Array, ...]) -> list[Stage]:
    weights = (*weights[:-1], _element_major(architecture, weights[-1]))
    rows = (*architecture.unit_sizes[1:], architecture.num_params * architecture.input_sizes)
    return [Stage(*s) for s in zip(weights, rows, architecture.unit_sizes, strict=True)]


def _gate_sizes(architecture: Architecture, layers: Layers) -> tuple[Any, ...]:
    return architecture.unit_sizes[1:2] * len(layers.gates)


def _element_major(architecture: Architecture, value: Array) -> Array:
    """From ``(num_params, event_size)`` to ``(event_size, num_params)``, both flattened."""
    shape = (architecture.num_params, architecture.event_size, *value.shape[1:])
    return value.reshape(shape).swapaxes(0, 1).reshape(value.shape)


def _instantiate(tangent: Any) -> Array:
    if isinstance(tangent, SymbolicZero):
        return jnp.zeros(tangent.shape, tangent.dtype)
    return tangent
