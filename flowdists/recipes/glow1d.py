"""Glow for vectors."""

from __future__ import annotations

from typing import Any

import jax

from flowdists.bijectors.actnorm import ActNorm
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.compose.chain import Chain
from flowdists.bijectors.compose.inverse import Inverse
from flowdists.bijectors.coupling import AffineCoupling
from flowdists.bijectors.linear import LULinear
from flowdists.recipes.registry import recipe
from flowdists.recipes.stack import alternate


@recipe
def Glow1D(
    key: Array,
    event_shape: Shape,
    *,
    num_layers: int = 8,
    scale: str = "tanh",
    **network: Any,
) -> Bijector:
    """Steps of Glow for vectors: ActNorm, a linear map in LU form, an affine coupling.

    From Kingma and Dhariwal 2018 (https://arxiv.org/abs/1807.03039). The linear maps mix the
    elements between couplings. A new flow is the identity.

    Args:
      key: PRNG key for the networks.
      event_shape: shape of one event, at least 2 elements.
      num_layers: number of steps.
      scale: how log-scales are bounded: "tanh", "sigmoid" (the paper's) or "exp".
      **network: options of the layers' networks, and the shape of their contexts.

    >>> import jax
    >>> flow = Glow1D(jax.random.key(0), (6,), num_layers=4, hidden_sizes=(32,))
    >>> flow.log_prob(jax.numpy.zeros((10, 6))).shape
    (10,)
    """

    def make_step(key: Array, flip: bool) -> Bijector:
        linear_key, coupling_key = jax.random.split(key)
        coupling = AffineCoupling(coupling_key, event_shape, scale=scale, flip=flip, **network)
        # Inverted, so that the density direction is a plain matrix product.
        return Chain([coupling, Inverse(LULinear(linear_key, event_shape)), ActNorm(event_shape)])

    return alternate("Glow1D", key, make_step, num_layers)
