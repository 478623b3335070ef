"""RealNVP."""

from __future__ import annotations

from typing import Any

from flowdists.bijectors.actnorm import ActNorm
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.compose.chain import Chain
from flowdists.bijectors.coupling import AffineCoupling
from flowdists.bijectors.partition import Mask
from flowdists.recipes.registry import recipe
from flowdists.recipes.stack import alternate


@recipe
def RealNVP(
    key: Array,
    event_shape: Shape,
    *,
    num_layers: int = 8,
    mask: Mask = "alternating",
    scale: str = "tanh",
    **network: Any,
) -> Bijector:
    """RealNVP: affine coupling layers, fast in both directions.

    From Dinh, Sohl-Dickstein and Bengio 2017 (https://arxiv.org/abs/1605.08803). Neighbouring
    layers exchange what they keep and what they change. A new flow is the identity;
    :func:`~flowdists.fit`, or ``data_init``, standardizes the data in a last
    :class:`~flowdists.ActNorm`.

    Args:
      key: PRNG key for the networks.
      event_shape: shape of one event, at least 2 elements.
      num_layers: number of coupling layers.
      mask: "alternating" or "checkerboard", "half", "channel", or an array of 0 and 1 of the event
        shape, 1 for what the first layer keeps.
      scale: how log-scales are bounded: "tanh", "sigmoid" or "exp".
      **network: options of the layers' networks, and the shape of their contexts.

    >>> import jax
    >>> flow = RealNVP(jax.random.key(0), (6,), num_layers=4, hidden_sizes=(32,))
    >>> flow.sample(jax.random.key(1), (10,)).shape
    (10, 6)
    """

    def make_layer(key: Array, flip: bool) -> Bijector:
        return AffineCoupling(key, event_shape, scale=scale, mask=mask, flip=flip, **network)

    return Chain([alternate("RealNVP", key, make_layer, num_layers), ActNorm(event_shape)])
