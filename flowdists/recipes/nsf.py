"""Neural spline flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from flowdists.bijectors.autoregressive import MaskedAutoregressive
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.coupling import Coupling
from flowdists.bijectors.elementwise import Reverse
from flowdists.bijectors.inverse import Inverse
from flowdists.bijectors.linear import LULinear
from flowdists.bijectors.normalization import ActNorm
from flowdists.bijectors.repeat import Repeat
from flowdists.networks.base import Activation
from flowdists.recipes.registry import recipe
from flowdists.transformers import Affine, Compose, RationalQuadratic, Transformer


@recipe
def NSF(
    key: Array,
    event_shape: Shape,
    *,
    context_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    num_layers: int = 8,
    hidden_sizes: Sequence[int] = (128, 128),
    base: Any = None,
    embedding: Any = None,
    conditional_base: bool = False,
    support: Any = None,
    autoregressive: bool = False,
    num_bins: int = 8,
    bound: float = 3.0,
    affine: bool = True,
    residual: bool = False,
    activation: Activation = "relu",
) -> Bijector:
    """Neural spline flow (Durkan, Bekasov, Murray & Papamakarios 2019).

    Rational-quadratic splines, in coupling layers (fast both ways) or autoregressive ones, with
    linear maps in LU form between them. A new flow is the identity; :func:`~flowdists.fit`, or
    ``data_init``, standardizes the data in a last :class:`~flowdists.ActNorm`.

    Args:
      key: PRNG key for the networks.
      event_shape: shape of one event; at least 2 elements, unless ``autoregressive``.
      context_shape: shape of one context, for a conditional flow.
      num_classes: for labels as context, in place of ``context_shape``: then
        :meth:`~flowdists.ConditionalFlow.condition` takes integers below it.
      num_layers: number of spline layers.
      hidden_sizes: widths of each network's hidden layers.
      base: a NumPyro distribution; standard normal unless given.
      embedding: None; or any callable pytree that maps one context to a vector, trained with the
        flow: :class:`~flowdists.DeepSets`, an :class:`~flowdists.MLP` with ``output_scale=1.0``, an
        Equinox module. Contexts are standardized before it, from the first data.
      conditional_base: whether the base gets a location and scale from a network of the context.
      support: where the density is to live: a NumPyro constraint, such as ``prior.support``, or one
        for each element of a vector. The last layer maps onto it; the shape of an event is that of
        the constrained one.
      autoregressive: whether layers are autoregressive. Then a sample costs the multiply-adds of
        one pass through the networks, in a loop over the dimensions.
      num_bins: bins of each spline, at least 2.
      bound: the splines act on ``[-bound, bound]``, in units of the standardized data.
      affine: whether a shift and scale follows each spline, with parameters from the same network.
        The splines alone map ``[-bound, bound]`` onto itself, which makes a density whose width
        varies (a funnel, say) slow to fit.
      residual: whether the networks are residual, one block for each entry of ``hidden_sizes``.
      activation: a function, or the name of one in :mod:`jax.nn`.

    Returns:
      A :class:`~flowdists.Flow`, or a :class:`~flowdists.ConditionalFlow` with a ``context_shape``.

    Raises:
      TypeError: for a key that is not a key, or a base that is not a distribution.
      ValueError: for shapes or options out of range, each named.

    >>> import jax
    >>> flow = NSF(jax.random.key(0), (3,), num_layers=2, hidden_sizes=(32,))
    >>> flow.log_prob(flow.sample(jax.random.key(1), (10,))).shape
    (10,)
    """
    transformer: Transformer = RationalQuadratic(num_bins=num_bins, bound=bound)
    if affine:
        transformer = Compose((transformer, Affine()))

    def make_layer(key: Array) -> Bijector:
        linear_key, key = jax.random.split(key)
        structure = MaskedAutoregressive if autoregressive else Coupling
        layer = structure(
            key,
            event_shape,
            transformer=transformer,
            context_shape=context_shape,
            hidden_sizes=hidden_sizes,
            residual=residual,
            activation=activation,
        )
        # Turned around, the linear map is a plain matrix product in the density direction.
        return Chain([layer, Inverse(LULinear(linear_key, event_shape)), Reverse(event_shape)])

    layers = [Repeat(key, make_layer, num_layers)]
    if num_layers % 2:
        layers.append(Reverse(event_shape))
    return Chain([*layers, ActNorm(event_shape)])


NeuralSplineFlow = NSF
