"""The masked autoencoder for distribution estimation: an autoregressive network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists._pytree import static
from flowdists.networks._levels import Architecture
from flowdists.networks.base import Activation, Array, Linear, Network, resolve_activation
from flowdists.networks.mlp import context_matrix, equal_width


class Layers(NamedTuple):
    """A MADE prepared for evaluation: masked weights, and the contributions of the context.

    Features come first, in the order of generation and of the levels. Shapes end in ``*batch``,
    the context's batch shape, padded with ones on the left to the number of batch axes of the
    input. Without a context all these axes are 1.

    Attributes:
      weights: for each linear layer ``(outputs, inputs)``; the last layer's outputs are
        ``(num_params, event_size)``, flattened.
      offsets: for each linear layer ``(outputs, *batch)``.
      gates: for each residual block ``(width, *batch)``; none without a context.
    """

    weights: tuple[Array, ...]
    offsets: tuple[Array, ...]
    gates: tuple[Array, ...]


class MADE(Network):
    """Parameters for every element of a vector, computed only from the elements before it.

    The masked network of Germain et al. 2015 (https://arxiv.org/abs/1502.03509). ``order[i]`` is
    the element that is generated ``i``-th, and its parameters depend on the elements ``order[:i]``
    and on the context. Those of the first element are a bias, or a nonlinear function of the
    context. The output layer starts at zero.

    Hidden units get their degrees evenly and deterministically. A hidden layer with fewer than
    ``event_size - 1`` units (``event_size``, with a context) cannot tell all elements apart.
    Neighbours in the order then form groups of equal size, without dependencies inside of a group.
    This loses the fewest dependencies.

    Args:
      key: PRNG key.
      event_size: length of the vector.
      num_params: parameters per element.
      hidden_sizes: widths of the hidden layers; with ``residual``, of the blocks, all equal.
      order: a permutation of ``range(event_size)``, "ascending" or "descending".
      residual: whether to use pre-activation residual blocks, ``h + W2 act(W1 act(h))``, in place
        of plain layers. A context gates the blocks, as in :class:`ResidualMLP`.
      context_size: length of the context vector, 0 for none. It enters the first layer.
      activation: a function, or the name of one in :mod:`jax.nn`.

    Raises:
      ValueError: if a size is not a positive int, ``order`` is not a permutation, the activation is
        unknown, or residual blocks differ in width.

    >>> import jax
    >>> made = MADE(jax.random.key(0), 3, 2, hidden_sizes=(16, 16), order=(2, 0, 1))
    >>> made(jax.numpy.ones((5, 3))).shape
    (2, 5, 3)
    """

    input_layer: Linear
    context_weight: Array | None
    hidden_layers: tuple[Linear, ...]
    gates: tuple[Linear, ...]
    output_layer: Linear
    order: tuple[int, ...] = static()
    architecture: Architecture = static()

    def __init__(
        self,
        key: Array,
        event_size: int,
        num_params: int,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        order: Sequence[int] | str = "ascending",
        residual: bool = False,
        context_size: int = 0,
        activation: Activation = "relu",
    ) -> None:
        event_size = _check.positive_int("MADE", "event_size", event_size)
        num_params = _check.positive_int("MADE", "num_params", num_params)
        sizes = _hidden_sizes(hidden_sizes, residual)
        resolve_activation(activation)
        self.order = _as_order(order, event_size)
        self.architecture = Architecture(
            event_size, num_params, sizes, bool(residual), context_size > 0, activation
        )
        widths = self.architecture.widths
        layer_key, context_key, gate_key = jax.random.split(_check.key("MADE", key), 3)
        input_key, output_key, *keys = jax.random.split(layer_key, len(widths))
        self.input_layer = Linear(input_key, event_size, widths[1])
        # The second layer of a block starts small, as in `ResidualMLP`.
        self.hidden_layers = tuple(
            Linear(k, widths[n], widths[n + 1], scale=0.1 if residual and n % 2 == 0 else 1.0)
            for n, k in enumerate(keys, start=1)
        )
        self.context_weight = context_matrix(context_key, context_size, widths[1])
        gate_keys = jax.random.split(gate_key, len(sizes)) if residual and context_size else ()
        self.gates = tuple(Linear(k, context_size, widths[1]) for k in gate_keys)
        self.output_layer = Linear(output_key, widths[-1], num_params * event_size, scale=0.0)

    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """Compute the parameters.

        Args:
          x: ``(*batch, event_size)``.
          context: ``(*batch, context_size)``, or None for a network without a context. The two
            batch shapes broadcast, and ``x`` has at least as many batch axes.

        Returns:
          ``(num_params, *batch, event_size)``: the shape in which transformers take them.
        """
        ordered = jnp.moveaxis(x, -1, 0)[np.array(self.order)]
        params = evaluate(self.architecture, self.prepare(context, x.ndim - 1), ordered)
        return jnp.moveaxis(params[:, np.argsort(self.order)], 1, -1)

    def prepare(self, context: Any, batch_ndims: int) -> Layers:
        """Mask the weights and add the context, for inputs with ``batch_ndims`` batch axes."""

        def features_first(value: Array) -> Array:
            missing = batch_ndims + 1 - value.ndim
            return jnp.expand_dims(jnp.moveaxis(value, -1, 0), tuple(range(1, 1 + missing)))

        linears = (self.input_layer, *self.hidden_layers, self.output_layer)
        offsets = [layer.bias for layer in linears]
        if self.context_weight is not None:
            offsets[0] = offsets[0] + context @ self.context_weight
        return Layers(
            tuple(self._masked(k, layer.weight) for k, layer in enumerate(linears)),
            tuple(features_first(offset) for offset in offsets),
            tuple(features_first(jax.nn.sigmoid(gate(context))) for gate in self.gates),
        )

    def _masked(self, index: int, weight: Array) -> Array:
        mask = self.architecture.mask(index)
        copies = weight.shape[1] // mask.shape[0]
        return weight.T * np.tile(mask, (copies, 1)).astype(weight.dtype)


def evaluate(architecture: Architecture, layers: Layers, x: Array) -> Array:
    """The whole network at once, with features first.

    Args:
      architecture: the network's.
      layers: its weights, from :meth:`MADE.prepare`.
      x: ``(event_size, *batch)``, in the order of generation.

    Returns:
      ``(num_params, event_size, *batch)``.
    """
    activation = resolve_activation(architecture.activation)
    params = architecture.run(
        lambda k, h: jnp.tensordot(layers.weights[k], h, 1) + layers.offsets[k],
        lambda k, h: activation(h),
        lambda block, h: h * layers.gates[block] if layers.gates else h,
        x,
    )
    return params.reshape(architecture.num_params, *x.shape)


def _hidden_sizes(hidden_sizes: Sequence[int], residual: bool) -> tuple[int, ...]:
    sizes = _check.sizes("MADE", "hidden_sizes", hidden_sizes)
    if residual:
        equal_width("MADE", sizes)
    return sizes


def _as_order(order: Sequence[int] | str, event_size: int) -> tuple[int, ...]:
    ascending = tuple(range(event_size))
    if isinstance(order, str):
        _check.one_of("MADE", "order", order, ("ascending", "descending"))
        return ascending if order == "ascending" else ascending[::-1]
    given = tuple(order)
    if sorted(given) != list(ascending):
        raise ValueError(f"MADE: `order` must be a permutation of range({event_size}), got {given}")
    return tuple(int(i) for i in given)
