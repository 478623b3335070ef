"""Stacked layers whose backward pass reconstructs what the forward pass would have stored."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from flowdists._events import sum_last
from flowdists.bijectors.base import Array, Bijector, Direction
from flowdists.bijectors.compose.inverse import opposite

Carry = tuple[Array, Array]


def run_layer(direction: Direction, layer: Bijector, carry: Carry, context: Array | None) -> Carry:
    """Map a value through one layer, and add its log-determinant to the sum so far."""
    value, total = carry
    value, log_det = getattr(layer, f"{direction}_and_log_det")(value, context)
    return value, total + log_det


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def reversible_scan(
    direction: Direction, layers: Bijector, carry: Carry, context: Array | None
) -> Carry:
    """A scan of :func:`run_layer` over stacked ``layers`` that stores only its result.

    The backward pass computes the input of every layer (in a chain, of each of its layers) from the
    output by the inverse, and runs the layer again on it. There are only reverse-mode derivatives.
    """

    def step(carry: Carry, layer: Bijector) -> tuple[Carry, None]:
        return run_layer(direction, layer, carry, context), None

    return jax.lax.scan(step, carry, layers, reverse=direction == "inverse")[0]


def _forward(
    direction: Direction, layers: Bijector, carry: Carry, context: Array | None
) -> tuple[Carry, Any]:
    value, total = reversible_scan(direction, layers, carry, context)
    return (value, total), (layers, value, context)


def _backward(direction: Direction, residuals: Any, cotangents: Carry) -> Any:
    layers, value, context = residuals
    context_zeros = jax.tree.map(jnp.zeros_like, context)

    def step(state: Any, layer: Bijector) -> Any:
        # Part by part, because the network of a coupling sees the same input in both directions.
        # Its evaluations in the inverse and in the layer then stand next to each other, as one
        # expression, which the compiler evaluates once.
        parts, pull_back = jax.vjp(lambda layer: layer.composition, layer)
        last_first = 1 if direction == "inverse" else -1  # an inverse ends at the base
        bars = []
        for part in parts[::last_first]:
            state, part_bar = _step_back(direction, part, state, context)
            bars.append(part_bar)
        (layer_bar,) = pull_back(tuple(bars[::last_first]))
        return state, layer_bar

    state = (value, cotangents, context_zeros)
    (_, carry_bar, context_bar), layers_bar = jax.lax.scan(
        step, state, layers, reverse=direction == "forward"
    )
    return layers_bar, carry_bar, context_bar


def _step_back(
    direction: Direction, layer: Bijector, state: Any, context: Array | None
) -> tuple[Any, Bijector]:
    """The input of a layer, from its output, with their cotangents; and the layer's cotangent."""
    value, (value_bar, total_bar), context_bar = state
    own_context = None if layer.context_shape is None else context
    undo = getattr(layer, f"{opposite(direction)}_and_log_det")
    before, _ = undo(value, own_context)

    def run(layer: Bijector, before: Array, own_context: Array | None) -> Carry:
        value, log_det = getattr(layer, f"{direction}_and_log_det")(before, own_context)
        log_det = sum_last(log_det, log_det.ndim - total_bar.ndim)
        return value, log_det.astype(total_bar.dtype)  # as adding it to the total does

    _, pull_back = jax.vjp(run, layer, before, own_context)
    layer_bar, before_bar, own_context_bar = pull_back((value_bar, total_bar))
    if own_context is not None:
        context_bar = jax.tree.map(jnp.add, context_bar, own_context_bar)
    return (before, (before_bar, total_bar), context_bar), layer_bar


reversible_scan.defvjp(_forward, _backward)
