"""Masked and inverse autoregressive flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flowdists.bijectors.actnorm import ActNorm
from flowdists.bijectors.autoregressive import MaskedAutoregressive
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.compose.chain import Chain
from flowdists.bijectors.compose.inverse import Inverse
from flowdists.recipes.registry import recipe
from flowdists.recipes.stack import alternate
from flowdists.transformers import ShiftScale


@recipe
def MAF(
    key: Array,
    event_shape: Shape,
    *,
    num_layers: int = 8,
    order: str | Sequence[int] = "alternate",
    scale: str = "tanh",
    **network: Any,
) -> Bijector:
    """Masked autoregressive flow with affine layers.

    From Papamakarios, Pavlakou and Murray 2017 (https://arxiv.org/abs/1705.07057). A density costs
    one pass through each layer's network. A sample costs as many multiply-adds, in a loop with one
    step for each dimension. A new flow is the identity; :func:`~flowdists.fit`, or ``data_init``,
    standardizes the data in a last :class:`~flowdists.ActNorm`.

    Args:
      key: PRNG key for the networks.
      event_shape: shape of one event; 1 element is allowed.
      num_layers: number of autoregressive layers.
      order: "alternate" (ascending, reversed from layer to layer), "ascending", "descending", or a
        permutation that all layers use.
      scale: how log-scales are bounded: "tanh", "sigmoid" or "exp".
      **network: options of the layers' networks, and the shape of their contexts.

    >>> import jax
    >>> flow = MAF(jax.random.key(0), (3,), num_layers=2, hidden_sizes=(32,), context_shape=(4,))
    >>> flow.condition(jax.numpy.ones((5, 4))).sample(jax.random.key(1)).shape
    (5, 3)
    """
    make_layer = _layers(event_shape, order, scale=scale, **network)
    return Chain([alternate("MAF", key, make_layer, num_layers), ActNorm(event_shape)])


@recipe
def IAF(
    key: Array,
    event_shape: Shape,
    *,
    num_layers: int = 4,
    order: str | Sequence[int] = "alternate",
    scale: str = "tanh",
    **network: Any,
) -> Bijector:
    """Inverse autoregressive flow: the inverted layers of a MAF.

    From Kingma et al. 2016 (https://arxiv.org/abs/1606.04934). A sample together with its density
    costs one pass through each layer's network, which suits variational guides. The density of
    given data costs a loop over the dimensions.

    Args:
      key: PRNG key for the networks.
      event_shape: shape of one event; 1 element is allowed.
      num_layers: number of autoregressive layers.
      order: as in :func:`~flowdists.MAF`.
      scale: how log-scales are bounded: "tanh", "sigmoid" or "exp".
      **network: options of the layers' networks, and the shape of their contexts.

    >>> import jax
    >>> flow = IAF(jax.random.key(0), (3,), num_layers=2, hidden_sizes=(32,))
    >>> x, log_prob = flow.sample_and_log_prob(jax.random.key(1), (10,))
    >>> x.shape, log_prob.shape
    ((10, 3), (10,))
    """
    make_layer = _layers(event_shape, order, scale=scale, **network)
    stack = alternate("IAF", key, lambda k, flip: Inverse(make_layer(k, flip)), num_layers)
    return Chain([stack, ActNorm(event_shape)])


def _layers(
    event_shape: Shape, order: str | Sequence[int], scale: str, **options: Any
) -> Callable[[Array, bool], Bijector]:
    """A function that makes a layer from a key and the direction of an alternating order."""

    def make_layer(key: Array, flip: bool) -> Bijector:
        alternating = "descending" if flip else "ascending"
        own_order = alternating if isinstance(order, str) and order == "alternate" else order
        return MaskedAutoregressive(
            key, event_shape, transformer=ShiftScale(scale=scale), order=own_order, **options
        )

    return make_layer
