"""Masked and inverse autoregressive flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flowdists.bijectors.autoregressive import MaskedAutoregressive
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.inverse import Inverse
from flowdists.bijectors.normalization import ActNorm
from flowdists.networks.base import Activation
from flowdists.recipes.registry import alternate, recipe
from flowdists.transformers import Affine


@recipe
def MAF(
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
    order: str | Sequence[int] = "alternate",
    scale: str = "tanh",
    residual: bool = False,
    activation: Activation = "relu",
) -> Bijector:
    """Masked autoregressive flow (Papamakarios, Pavlakou & Murray 2017), affine.

    The density costs one pass through each layer's network; a sample costs the multiply-adds of
    one pass too, spread over a loop of as many steps as there are dimensions. A new flow is the
    identity; :func:`~flowdists.fit`, or ``data_init``, standardizes the data in a last ActNorm.

    Args:
      key: PRNG key for the networks.
      event_shape: shape of one event; 1 element is allowed.
      context_shape: shape of one context, for a conditional flow.
      num_classes: for labels as context, in place of ``context_shape``: then
        :meth:`~flowdists.ConditionalFlow.condition` takes integers below it.
      num_layers: number of autoregressive layers.
      hidden_sizes: widths of each network's hidden layers.
      base: a NumPyro distribution; standard normal unless given.
      embedding: None; or any callable pytree that maps one context to a vector, trained with the
        flow: :class:`~flowdists.DeepSets`, an :class:`~flowdists.MLP` with ``output_scale=1.0``, an
        Equinox module. Contexts are standardized before it, from the first data.
      conditional_base: whether the base gets a location and scale from a network of the context.
      support: where the density is to live: a NumPyro constraint, such as ``prior.support``, or one
        for each element of a vector. The last layer maps onto it; the shape of an event is that of
        the constrained one.
      order: "alternate" (ascending, reversed from layer to layer), "ascending", "descending", or a
        permutation that all layers use.
      scale: how log-scales are bounded: "tanh", "sigmoid" or "exp".
      residual: whether the networks are residual, one block for each entry of ``hidden_sizes``.
      activation: a function, or the name of one in :mod:`jax.nn`.

    Returns:
      A :class:`~flowdists.Flow`, or a :class:`~flowdists.ConditionalFlow` with a ``context_shape``.

    Raises:
      TypeError: for a key that is not a key, or a base that is not a distribution.
      ValueError: for shapes or options out of range, each named.

    >>> import jax
    >>> flow = MAF(jax.random.key(0), (3,), num_layers=2, hidden_sizes=(32,), context_shape=(4,))
    >>> flow.condition(jax.numpy.ones((5, 4))).sample(jax.random.key(1)).shape
    (5, 3)
    """
    make_layer = _layers(
        event_shape,
        order,
        transformer=Affine(scale=scale),
        context_shape=context_shape,
        hidden_sizes=hidden_sizes,
        residual=residual,
        activation=activation,
    )
    return Chain([alternate("MAF", key, make_layer, num_layers), ActNorm(event_shape)])


@recipe
def IAF(
    key: Array,
    event_shape: Shape,
    *,
    context_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    num_layers: int = 4,
    hidden_sizes: Sequence[int] = (128, 128),
    base: Any = None,
    embedding: Any = None,
    conditional_base: bool = False,
    support: Any = None,
    order: str | Sequence[int] = "alternate",
    scale: str = "tanh",
    residual: bool = False,
    activation: Activation = "relu",
) -> Bijector:
    """Inverse autoregressive flow (Kingma et al. 2016): MAF's layers turned around.

    A sample with its density costs one pass through each layer's network, which is what a
    variational guide needs; the density of given data costs a loop over the dimensions.

    Args:
      key: PRNG key for the networks.
      event_shape: shape of one event; 1 element is allowed.
      context_shape: shape of one context, for a conditional flow.
      num_classes: for labels as context, in place of ``context_shape``: then
        :meth:`~flowdists.ConditionalFlow.condition` takes integers below it.
      num_layers: number of autoregressive layers.
      hidden_sizes: widths of each network's hidden layers.
      base: a NumPyro distribution; standard normal unless given.
      embedding: None; or any callable pytree that maps one context to a vector, trained with the
        flow: :class:`~flowdists.DeepSets`, an :class:`~flowdists.MLP` with ``output_scale=1.0``, an
        Equinox module. Contexts are standardized before it, from the first data.
      conditional_base: whether the base gets a location and scale from a network of the context.
      support: where the density is to live: a NumPyro constraint, such as ``prior.support``, or one
        for each element of a vector. The last layer maps onto it; the shape of an event is that of
        the constrained one.
      order: as in :func:`~flowdists.MAF`.
      scale: how log-scales are bounded: "tanh", "sigmoid" or "exp".
      residual: whether the networks are residual, one block for each entry of ``hidden_sizes``.
      activation: a function, or the name of one in :mod:`jax.nn`.

    Returns:
      A :class:`~flowdists.Flow`, or a :class:`~flowdists.ConditionalFlow` with a ``context_shape``.

    Raises:
      TypeError: for a key that is not a key, or a base that is not a distribution.
      ValueError: for shapes or options out of range, each named.

    >>> import jax
    >>> flow = IAF(jax.random.key(0), (3,), num_layers=2, hidden_sizes=(32,))
    >>> x, log_prob = flow.sample_and_log_prob(jax.random.key(1), (10,))
    >>> x.shape, log_prob.shape
    ((10, 3), (10,))
    """
    make_layer = _layers(
        event_shape,
        order,
        transformer=Affine(scale=scale),
        context_shape=context_shape,
        hidden_sizes=hidden_sizes,
        residual=residual,
        activation=activation,
    )
    return Chain(
        [
            alternate("IAF", key, lambda k, flip: Inverse(make_layer(k, flip)), num_layers),
            ActNorm(event_shape),
        ]
    )


def _layers(
    event_shape: Shape, order: str | Sequence[int], **options: Any
) -> Callable[[Array, bool], Bijector]:
    """What makes a layer from a key and the sense of its order."""

    def make_layer(key: Array, flip: bool) -> Bijector:
        alternating = "descending" if flip else "ascending"
        own_order = alternating if isinstance(order, str) and order == "alternate" else order
        return MaskedAutoregressive(key, event_shape, order=own_order, **options)

    return make_layer
