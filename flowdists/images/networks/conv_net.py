"""Convolutional conditioners: Glow's network of three layers, and a residual one."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp

from flowdists import _check
from flowdists._pytree import static
from flowdists.images.networks.convolution import Conv, per_pixel
from flowdists.networks.base import Activation, Array, Linear, Network, resolve_activation
from flowdists.networks.normalization import ChannelNorm

GAIN = 3.0  # Kingma & Dhariwal 2018: output scales learn three times as fast as the rest


class ZeroConv(Network):
    """A 3×3 convolution that starts at zero, times ``exp(3 * log_gain)`` for each output channel.

    A context is added through weights that also start at zero.

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      context_size: length of the context vector, 0 for none.

    >>> layer = fd.images.ZeroConv(2, 4)
    >>> float(abs(layer(jnp.ones((5, 8, 8, 2)))).max())
    0.0
    """

    conv: Conv
    log_gain: Array
    context_weight: Array | None

    def __init__(self, in_channels: int, out_channels: int, context_size: int = 0) -> None:
        self.conv = Conv(jax.random.key(0), in_channels, out_channels, scale=0.0)
        self.log_gain = jnp.zeros(out_channels)
        self.context_weight = zero_embedding(context_size, out_channels)

    def __call__(self, x: Array, context: Any = None) -> Array:
        out = add_context(self.conv(x), self.context_weight, context)
        return out * jnp.exp(GAIN * self.log_gain)


class ConvNet(Network):
    """Glow's network: 3×3, 1×1 and a 3×3 convolution that starts at zero (``ZeroConv``).

    From Kingma & Dhariwal 2018 (https://arxiv.org/abs/1807.03039). A context is added to the
    channels of the first layer, through weights that start at zero.

    Args:
      key: PRNG key.
      in_channels: channels of the input.
      out_channels: channels of the output.
      hidden_channels: width of the two hidden layers.
      context_size: length of the context vector, 0 for none.
      activation: a function, or the name of one in :mod:`jax.nn`.
      normalize: whether to normalize each hidden layer per channel before its activation, as the
        paper's code does. The first batch sets the statistics, which are then trained (ActNorm).
      dtype: the dtype of the computation, such as "bfloat16". Parameters and the result keep
        theirs. None for the dtype of the input.

    Raises:
      ValueError: if a size is not a positive int, or the activation or the dtype is unknown.

    >>> network = fd.ConvNet(jax.random.key(0), 6, 12, hidden_channels=16)
    >>> network(jnp.ones((5, 8, 8, 6))).shape
    (5, 8, 8, 12)
    """

    input_layer: Conv
    hidden_layer: Linear
    output_layer: ZeroConv
    context_weight: Array | None
    norms: tuple[ChannelNorm, ...]
    activation: Activation = static()
    dtype: str | None = static()

    def __init__(
        self,
        key: Array,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int = 512,
        context_size: int = 0,
        activation: Activation = "relu",
        normalize: bool = False,
        dtype: str | None = None,
    ) -> None:
        width = _check_sizes("ConvNet", in_channels, out_channels, hidden_channels)
        resolve_activation(activation)
        input_key, hidden_key = jax.random.split(_check.key("ConvNet", key))
        self.input_layer = Conv(input_key, in_channels, width)
        self.hidden_layer = Linear(hidden_key, width, width)
        self.output_layer = ZeroConv(width, out_channels)
        self.context_weight = zero_embedding(context_size, width)
        self.norms = tuple(ChannelNorm(width) for _ in range(2 if normalize else 0))
        self.activation = activation
        self.dtype = _check_dtype("ConvNet", dtype)

    def __call__(self, x: Array, context: Any = None) -> Array:
        return _in_dtype(self, x, context)

    def data_init(self, x: Array, context: Any = None) -> ConvNet:
        """Return the network whose normalizations fit the batch ``x``."""
        if not self.norms:
            return self
        activation = resolve_activation(self.activation)
        h = add_context(self.input_layer(x), self.context_weight, context)
        first = self.norms[0].data_init(h)
        h = per_pixel(self.hidden_layer, activation(first(h)))
        network = copy.copy(self)
        network.norms = (first, self.norms[1].data_init(h))
        return network

    def _compute(self, x: Array, context: Any) -> Array:
        """The output, in the dtype of the arguments and of the parameters."""
        activation = resolve_activation(self.activation)
        first, second = self.norms or (_identity, _identity)
        h = add_context(self.input_layer(x), self.context_weight, context)
        h = per_pixel(self.hidden_layer, activation(first(h)))
        return self.output_layer(activation(second(h)))


class ResidualConvNet(Network):
    """Pre-activation residual blocks of 3×3 convolutions, then one that starts at zero.

    The network of RealNVP for images (Dinh et al. 2017, https://arxiv.org/abs/1605.08803), without
    batch normalization. Every block computes ``h + conv(act(conv(act(h))))``, and its second
    convolution starts small. A context is added to the channels of the first layer, through weights
    that start at zero.

    Args:
      key: PRNG key.
      in_channels: channels of the input.
      out_channels: channels of the output.
      hidden_channels: width of the blocks.
      num_blocks: number of blocks.
      context_size: length of the context vector, 0 for none.
      activation: a function, or the name of one in :mod:`jax.nn`.
      dtype: the dtype of the computation, as in :class:`~flowdists.ConvNet`.

    Raises:
      ValueError: if a size is not a positive int, or the activation or the dtype is unknown.

    >>> network = fd.ResidualConvNet(jax.random.key(0), 6, 12, hidden_channels=16)
    >>> network(jnp.ones((5, 8, 8, 6))).shape
    (5, 8, 8, 12)
    """

    input_layer: Conv
    blocks: tuple[tuple[Conv, Conv], ...]
    output_layer: ZeroConv
    context_weight: Array | None
    activation: Activation = static()
    dtype: str | None = static()

    def __init__(
        self,
        key: Array,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int = 64,
        num_blocks: int = 2,
        context_size: int = 0,
        activation: Activation = "relu",
        dtype: str | None = None,
    ) -> None:
        width = _check_sizes("ResidualConvNet", in_channels, out_channels, hidden_channels)
        depth = _check.positive_int("ResidualConvNet", "num_blocks", num_blocks)
        resolve_activation(activation)
        input_key, *keys = jax.random.split(_check.key("ResidualConvNet", key), 2 * depth + 1)
        self.input_layer = Conv(input_key, in_channels, width)
        self.blocks = tuple(
            (Conv(first, width, width), Conv(second, width, width, scale=0.1))
            for first, second in zip(keys[::2], keys[1::2], strict=True)
        )
        self.output_layer = ZeroConv(width, out_channels)
        self.context_weight = zero_embedding(context_size, width)
        self.activation = activation
        self.dtype = _check_dtype("ResidualConvNet", dtype)

    def __call__(self, x: Array, context: Any = None) -> Array:
        return _in_dtype(self, x, context)

    def _compute(self, x: Array, context: Any) -> Array:
        """The output, in the dtype of the arguments and of the parameters."""
        activation = resolve_activation(self.activation)
        h = add_context(self.input_layer(x), self.context_weight, context)
        for first, second in self.blocks:
            h = h + second(activation(first(activation(h))))
        return self.output_layer(activation(h))


def zero_embedding(context_size: int, channels: int) -> Array | None:
    """Weights from a context to channels, all zero; None without a context."""
    return jnp.zeros((context_size, channels)) if context_size else None


def add_context(channels: Array, weight: Array | None, context: Any) -> Array:
    """Add an embedded context, the same at every pixel; without weights nothing is added.

    Args:
      channels: ``(*batch, H, W, channels)``, or any shape that broadcasts with it.
      weight: ``(context_size, channels)``, or None.
      context: ``(*batch, context_size)``.
    """
    return channels if weight is None else channels + (context @ weight)[..., None, None, :]


def _identity(h: Array) -> Array:
    return h


def _check_dtype(caller: str, dtype: Any) -> str | None:
    """The name of a floating-point dtype, or None."""
    if dtype is None:
        return None
    try:
        known = jnp.dtype(dtype)
    except TypeError:
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating):
        raise ValueError(
            f"{caller}: `dtype` must be a floating-point dtype, such as 'bfloat16', or None, got "
            f"{dtype!r}"
        )
    return known.name


def _in_dtype(network: Any, x: Array, context: Any) -> Array:
    """``network._compute(x, context)`` in the network's ``dtype``; the result in that of ``x``."""
    if network.dtype is None:
        return network._compute(x, context)
    arguments = (network, x, context)
    low, low_x, low_context = jax.tree.map(lambda leaf: leaf.astype(network.dtype), arguments)
    return low._compute(low_x, low_context).astype(x.dtype)


def _check_sizes(caller: str, in_channels: int, out_channels: int, hidden_channels: int) -> int:
    """The three sizes are positive; return the last."""
    _check.positive_int(caller, "in_channels", in_channels)
    _check.positive_int(caller, "out_channels", out_channels)
    return _check.positive_int(caller, "hidden_channels", hidden_channels)
