"""Neural spline flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from flowdists import _check
from flowdists.bijectors.autoregressive import MaskedAutoregressive
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.coupling import Coupling
from flowdists.bijectors.inverse import Inverse
from flowdists.bijectors.linear import LULinear
from flowdists.bijectors.normalization import ActNorm
from flowdists.flows.recipe import alternate, recipe
from flowdists.networks.base import Activation
from flowdists.transformers import RationalQuadratic


@recipe
def NSF(
    key: Array,
    event_shape: Shape,
    *,
    context_shape: Sequence[int] | None = None,
    num_layers: int = 8,
    hidden_sizes: Sequence[int] = (128, 128),
    base: Any = None,
    autoregressive: bool = False,
    num_bins: int = 8,
    bound: float = 4.0,
    residual: bool = False,
    activation: Activation = "silu",
) -> Bijector:
    _check.positive_int("NSF", "num_layers", num_layers)
    spline = RationalQuadratic(num_bins=num_bins, bound=bound)
    network = dict(
        context_shape=context_shape,
        hidden_sizes=hidden_sizes,
        residual=residual,
        activation=activation,
    )

    def make_layer(key: Array, flip: bool) -> Bijector:
        linear_key, key = jax.random.split(key)
        linear = Inverse(LULinear(linear_key, event_shape))
        if autoregressive:
            order = "descending" if flip else "ascending"
            return Chain([
                MaskedAutoregressive(key, event_shape, transformer=spline, order=order, **network),
                linear,
            ])
        return Chain([Coupling(key, event_shape, transformer=spline, flip=flip, **network), linear])

    return Chain([alternate(key, make_layer, num_layers), ActNorm(event_shape)])
