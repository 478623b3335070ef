"""Neural spline flows."""

from __future__ import annotations

from typing import Any

import jax

from flowdists.bijectors.actnorm import ActNorm
from flowdists.bijectors.autoregressive import MaskedAutoregressive
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.compose.chain import Chain
from flowdists.bijectors.compose.inverse import Inverse
from flowdists.bijectors.compose.repeat import Repeat
from flowdists.bijectors.coupling import Coupling
from flowdists.bijectors.linear import LULinear
from flowdists.bijectors.permute import Reverse
from flowdists.recipes.registry import recipe
from flowdists.transformers import Compose, RationalQuadratic, ShiftScale, Transformer


@recipe
def NSF(
    key: Array,
    event_shape: Shape,
    *,
    num_layers: int = 8,
    autoregressive: bool = False,
    num_bins: int = 8,
    bound: float = 3.0,
    affine: bool = True,
    **network: Any,
) -> Bijector:
    """Neural spline flow: rational-quadratic splines with linear maps in LU form between them.

    From Durkan, Bekasov, Murray and Papamakarios 2019 (https://arxiv.org/abs/1906.04032). The
    splines are in coupling layers (both directions are fast) or in autoregressive ones. A new flow
    is the identity; :func:`~flowdists.fit`, or ``data_init``, standardizes the data in a last
    :class:`~flowdists.ActNorm`.

    Args:
      key: PRNG key for the networks.
      event_shape: shape of one event; at least 2 elements, unless ``autoregressive``.
      num_layers: number of spline layers.
      autoregressive: whether layers are autoregressive. A sample then costs the multiply-adds of
        one pass through the networks, in a loop over the dimensions.
      num_bins: bins of each spline, at least 2.
      bound: the splines act on ``[-bound, bound]``, in units of the standardized data.
      affine: whether a shift and scale follows each spline, with parameters from the same network.
        Splines alone map ``[-bound, bound]`` onto itself. A density whose width varies (a funnel,
        for example) is then slow to fit.
      **network: options of the layers' networks, and the shape of their contexts.

    >>> import jax
    >>> flow = NSF(jax.random.key(0), (3,), num_layers=2, hidden_sizes=(32,))
    >>> flow.log_prob(flow.sample(jax.random.key(1), (10,))).shape
    (10,)
    """
    transformer: Transformer = RationalQuadratic(num_bins=num_bins, bound=bound)
    if affine:
        transformer = Compose((transformer, ShiftScale()))

    def make_layer(key: Array) -> Bijector:
        linear_key, key = jax.random.split(key)
        structure = MaskedAutoregressive if autoregressive else Coupling
        layer = structure(key, event_shape, transformer=transformer, **network)
        # Inverted, so that the density direction is a plain matrix product.
        return Chain([layer, Inverse(LULinear(linear_key, event_shape)), Reverse(event_shape)])

    layers = [Repeat(key, make_layer, num_layers)]
    if num_layers % 2:
        layers.append(Reverse(event_shape))
    return Chain([*layers, ActNorm(event_shape)])


NeuralSplineFlow = NSF
