"""Glow for tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.coupling import AffineCoupling
from flowdists.bijectors.inverse import Inverse
from flowdists.bijectors.linear import LULinear
from flowdists.bijectors.normalization import ActNorm
from flowdists.networks.base import Activation
from flowdists.recipes.registry import alternate, recipe


@recipe
def Glow1D(
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
    scale: str = "tanh",
    residual: bool = False,
    activation: Activation = "relu",
) -> Bijector:
    """The step of Glow for vectors (Kingma & Dhariwal 2018): ActNorm, LU linear, affine coupling.

    The linear maps mix the elements between couplings; they and a new flow start as the identity.

    Args:
      key: PRNG key for the networks.
      event_shape: shape of one event, at least 2 elements.
      context_shape: shape of one context, for a conditional flow.
      num_classes: for labels as context, in place of ``context_shape``: then
        :meth:`~flowdists.ConditionalFlow.condition` takes integers below it.
      num_layers: number of steps.
      hidden_sizes: widths of each network's hidden layers.
      base: a NumPyro distribution; standard normal unless given.
      embedding: None; or any callable pytree that maps one context to a vector, trained with the
        flow: :class:`~flowdists.DeepSets`, an :class:`~flowdists.MLP` with ``output_scale=1.0``, an
        Equinox module. Contexts are standardized before it, from the first data.
      conditional_base: whether the base gets a location and scale from a network of the context.
      support: where the density is to live: a NumPyro constraint, such as ``prior.support``, or one
        for each element of a vector. The last layer maps onto it; the shape of an event is that of
        the constrained one.
      scale: how log-scales are bounded: "tanh", "sigmoid" (the paper's) or "exp".
      residual: whether the networks are residual, one block for each entry of ``hidden_sizes``.
      activation: a function, or the name of one in :mod:`jax.nn`.

    Returns:
      A :class:`~flowdists.Flow`, or a :class:`~flowdists.ConditionalFlow` with a ``context_shape``.

    Raises:
      TypeError: for a key that is not a key, or a base that is not a distribution.
      ValueError: for shapes or options out of range, each named.

    >>> import jax
    >>> flow = Glow1D(jax.random.key(0), (6,), num_layers=4, hidden_sizes=(32,))
    >>> flow.log_prob(jax.numpy.zeros((10, 6))).shape
    (10,)
    """

    def make_step(key: Array, flip: bool) -> Bijector:
        linear_key, coupling_key = jax.random.split(key)
        coupling = AffineCoupling(
            coupling_key,
            event_shape,
            scale=scale,
            flip=flip,
            context_shape=context_shape,
            hidden_sizes=hidden_sizes,
            residual=residual,
            activation=activation,
        )
        # Turned around, the linear map is a plain matrix product in the density direction.
        return Chain([coupling, Inverse(LULinear(linear_key, event_shape)), ActNorm(event_shape)])

    return alternate("Glow1D", key, make_step, num_layers)
