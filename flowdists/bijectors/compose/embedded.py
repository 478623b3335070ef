"""A conditional layer whose context is normalized and embedded first."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from flowdists import _check
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.bijectors.compose.wrapper import Wrapper
from flowdists.networks.embedding import Embedding
from flowdists.networks.normalization import ChannelNorm


class Embedded(Wrapper):
    """``bijector`` with a context that is first standardized, and mapped by a network.

    Contexts are standardized for each channel (the last axis) once :meth:`data_init` has seen some,
    so that they may have any units. ``ConditionalFlow.condition`` embeds each context once, for all
    samples that are scored or drawn given it.

    The last channel of a context may be a mask, above 0.5 where the other channels hold data. The
    network then has a true attribute ``ends_in_mask``, as ``DeepSets(..., masked=True)`` has. It
    gets the mask unchanged. Fillers in the other channels do not count in the mean and the scale,
    and become zero.

    Args:
      bijector: a layer with a ``context_shape``: the embedding's output, or without an embedding
        the ``context_shape`` given here.
      context_shape: shape of one context.
      embedding: None; or any callable pytree that maps one context of that shape to a vector, and
        is trained with the layer: :class:`~flowdists.DeepSets`, an :class:`~flowdists.MLP` with
        ``output_scale=1.0``, an Equinox module. It is called under :func:`jax.vmap`.

    Raises:
      TypeError: if the embedding is not callable.
      ValueError: if it does not fit the context or the layer.

    >>> network = DeepSets(jax.random.key(0), 2, 5)
    >>> layer = AffineCoupling(jax.random.key(1), (3,), context_shape=(5,))
    >>> layer = Embedded(layer, (10, 2), embedding=network)
    >>> jax.jit(layer.forward_and_log_det)(jnp.ones((7, 3)), jnp.ones((7, 10, 2)))[1].shape
    (7,)
    """

    bijector: Bijector
    normalization: ChannelNorm
    embedding: Embedding | None
    given_shape: Shape = static()

    def __init__(
        self, bijector: Bijector, context_shape: Sequence[int], *, embedding: Any = None
    ) -> None:
        self.given_shape = _check.shape("Embedded", "context_shape", context_shape)
        self.bijector = bijector
        self.embedding = None
        embedded = self.context_shape
        if embedding is not None:
            self.embedding = Embedding("Embedded", embedding, self.context_shape)
            embedded = (self.embedding.output_size("Embedded"),)
        num_channels = (self.context_shape or (1,))[-1]
        self.normalization = ChannelNorm(num_channels - self._ends_in_mask)
        if bijector.context_shape != embedded:
            raise ValueError(
                f"Embedded: `bijector` must take contexts of shape {embedded}, got "
                f"{bijector.name} with {bijector.context_shape}"
            )

    @property
    def context_shape(self) -> Shape:
        return self.given_shape

    def embed(self, context: Array | None) -> Array:
        """The contexts as the inner layer takes them, ``(*batch, *inner_context_shape)``."""
        context = _check.context("Embedded.embed", context, self.context_shape)
        context = self._standardized(context).reshape(context.shape)
        return context if self.embedding is None else self.embedding(context)

    @property
    def _ends_in_mask(self) -> bool:
        return self.embedding is not None and self.embedding.ends_in_mask

    def _standardized(self, context: Array) -> Array:
        channels, mask = self._split(context)
        if mask is None:
            return self.normalization(channels)
        # The location becomes zero. A NaN in a filler must not reach the gradient.
        channels = jnp.where(mask > 0.5, channels, self.normalization.loc)
        return jnp.concatenate([self.normalization(channels), mask], axis=-1)

    def _split(self, context: Array) -> tuple[Array, Array | None]:
        """The channels to standardize, as the last axis, and the mask, or None without one."""
        if self._ends_in_mask:
            return context[..., :-1], context[..., -1:]
        return context if self.context_shape else context[..., None], None

    def resolve_context(self, context: Array) -> tuple[Bijector, Array]:
        return self.bijector.resolve_context(self.embed(context))

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self.bijector.forward_and_log_det(x, self.embed(context))

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self.bijector.inverse_and_log_det(y, self.embed(context))

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        """Return the layer that standardizes ``context``, with its inner layer initialized too."""
        context = _check.context("Embedded.data_init", context, self.context_shape)
        layer = copy.copy(self)
        channels, mask = self._split(context)
        present = None if mask is None else mask > 0.5
        layer.normalization = self.normalization.data_init(channels, present)
        layer.bijector, value = self.bijector.data_init(value, layer.embed(context), direction)
        return layer, value
