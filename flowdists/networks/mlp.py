"""Fully connected conditioners: a plain MLP and a pre-activation residual one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flowdists import _check
from flowdists._pytree import static
from flowdists.networks.base import Activation, Array, Linear, Network, resolve_activation


class MLP(Network):
    """A multi-layer perceptron, by default one whose output layer starts at zero.

    The context enters the first layer through its own weights. This equals concatenation, but does
    not copy a context to every sample that shares it.

    Args:
      key: PRNG key.
      in_size: length of the input vector; 0 is allowed with a context, or for a constant.
      out_size: length of the output vector.
      hidden_sizes: widths of the hidden layers, at least one.
      context_size: length of the context vector, 0 for none.
      activation: a function, or the name of one in :mod:`jax.nn`.
      output_scale: factor of the output layer's initial weights: 0, the default, for a layer that
        starts as the identity; 1 for an encoder or a decoder, whose gradient must not start at
        zero.

    >>> import jax
    >>> network = MLP(jax.random.key(0), 3, 4, hidden_sizes=(16,), context_size=2)
    >>> network(jax.numpy.ones((5, 3)), jax.numpy.ones(2)).shape
    (5, 4)
    """

    input_layer: Linear
    context_weight: Array | None
    hidden_layers: tuple[Linear, ...]
    output_layer: Linear
    activation: Activation = static()

    def __init__(
        self,
        key: Array,
        in_size: int,
        out_size: int,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        context_size: int = 0,
        activation: Activation = "relu",
        output_scale: float = 0.0,
    ) -> None:
        sizes = _check.sizes("MLP", "hidden_sizes", hidden_sizes)
        resolve_activation(activation)
        input_key, context_key, output_key, *keys = jax.random.split(key, len(sizes) + 2)
        self.input_layer = Linear(input_key, in_size, sizes[0])
        self.context_weight = context_matrix(context_key, context_size, sizes[0])
        self.hidden_layers = tuple(
            Linear(k, i, o) for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)
        )
        self.output_layer = Linear(output_key, sizes[-1], out_size, output_scale)
        self.activation = activation

    def __call__(self, x: Array, context: Any = None) -> Array:
        activation = resolve_activation(self.activation)
        h = self.input_layer(x) + context_term("MLP", self.context_weight, context)
        for layer in self.hidden_layers:
            h = layer(activation(h))
        return self.output_layer(activation(h))


class ResidualMLP(Network):
    """A pre-activation residual network, by default with an output layer that starts at zero.

    From He et al. 2016 (https://arxiv.org/abs/1603.05027). Each block computes
    ``h + W2 act(W1 act(h))``, with ``W2`` small at the start. A context enters the first layer and
    gates the output of every block: ``h + sigmoid(V c) * W2 act(W1 act(h))``, as in the conditioner
    of Durkan et al. 2019 (https://arxiv.org/abs/1906.04032).

    Args:
      key: PRNG key.
      in_size: length of the input vector.
      out_size: length of the output vector.
      hidden_sizes: one width for each block, all equal.
      context_size: length of the context vector, 0 for none.
      activation: a function, or the name of one in :mod:`jax.nn`.
      output_scale: factor of the output layer's initial weights, as in :class:`~flowdists.MLP`.

    Raises:
      ValueError: if widths differ or are not positive, or the activation is unknown.

    >>> network = ResidualMLP(jax.random.key(0), 3, 4, hidden_sizes=(16, 16))
    >>> network(jnp.ones((5, 3))).shape
    (5, 4)
    """

    input_layer: Linear
    context_weight: Array | None
    blocks: tuple[tuple[Linear, Linear], ...]
    gates: tuple[Linear, ...]
    output_layer: Linear
    activation: Activation = static()

    def __init__(
        self,
        key: Array,
        in_size: int,
        out_size: int,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        context_size: int = 0,
        activation: Activation = "relu",
        output_scale: float = 0.0,
    ) -> None:
        width = equal_width("ResidualMLP", hidden_sizes)
        depth = len(tuple(hidden_sizes))
        resolve_activation(activation)
        input_key, context_key, output_key, *keys = jax.random.split(key, 3 * depth + 3)
        first, second, gate = keys[:depth], keys[depth : 2 * depth], keys[2 * depth :]
        self.input_layer = Linear(input_key, in_size, width)
        self.context_weight = context_matrix(context_key, context_size, width)
        self.blocks = tuple(
            (Linear(k1, width, width), Linear(k2, width, width, scale=0.1))
            for k1, k2 in zip(first, second, strict=True)
        )
        self.gates = tuple(Linear(k, context_size, width) for k in gate if context_size)
        self.output_layer = Linear(output_key, width, out_size, output_scale)
        self.activation = activation

    def __call__(self, x: Array, context: Any = None) -> Array:
        activation = resolve_activation(self.activation)
        h = self.input_layer(x) + context_term("ResidualMLP", self.context_weight, context)
        for i, (first, second) in enumerate(self.blocks):
            update = second(activation(first(activation(h))))
            if self.gates:
                update = update * jax.nn.sigmoid(self.gates[i](context))
            h = h + update
        return self.output_layer(activation(h))


def context_matrix(key: Array, context_size: int, width: int) -> Array | None:
    """Weights from the context to a layer of ``width`` units; None without a context."""
    return Linear(key, context_size, width).weight if context_size else None


def context_term(caller: str, context_weight: Array | None, context: Any) -> Any:
    """The contribution of the context to the first layer; 0 without a context.

    Raises:
      ValueError: if there is a context, but the network was built without ``context_size``.
    """
    if context_weight is not None:
        return context @ context_weight
    if context is not None:
        raise ValueError(
            f"{caller}: `context` was given (shape {jnp.shape(context)}), expected None: the "
            "network was built without `context_size`"
        )
    return 0.0


def equal_width(caller: str, hidden_sizes: Sequence[int]) -> int:
    """The common width of a residual network's blocks.

    Raises:
      ValueError: if the widths differ.
    """
    sizes = _check.sizes(caller, "hidden_sizes", hidden_sizes)
    if len(set(sizes)) != 1:
        raise ValueError(f"{caller}: `hidden_sizes` must all be equal, got {sizes}")
    return sizes[0]
