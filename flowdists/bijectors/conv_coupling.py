"""Coupling layers on images, whose conditioners are convolutional."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from flowdists import _check
from flowdists._compensated import (
    Compensated,
    Value,
    compensated,
    rounded,
    without_last_bit,
)
from flowdists._pytree import static
from flowdists.bijectors._channels import join_channels, split_channels
from flowdists.bijectors.base import Array, Bijector, Direction, Shape, lift_constraint
from flowdists.networks.base import Activation
from flowdists.networks.conditioner import flatten_context
from flowdists.networks.conv_net import ConvNet, ResidualConvNet
from flowdists.networks.image_conditioner import as_image_conditioner
from flowdists.transformers import Affine, Transformer
from flowdists.transformers.base import check_transformer

MASKS = ("channel", "checkerboard")


class ConvCoupling(Bijector):
    r"""A coupling layer on images ``(H, W, C)`` (Dinh et al. 2017).

    With an image split by the mask into ``(a, b)``, ``forward`` computes ``a' = a`` and
    ``b' = T(b; conditioner(a, context))`` with a transformer ``T``. Both directions cost one
    evaluation of the conditioner.

    Args:
      key: PRNG key for the conditioner's parameters.
      event_shape: ``(H, W, C)``.
      transformer: the family of scalar maps, affine unless given; ``flowdists.transformers`` has
        ``Additive`` and ``RationalQuadratic`` too. A new layer is the identity.
      mask: "channel", where the second half of the channels changes; or "checkerboard", where all
        channels change at the pixels whose row and column sum to an odd number. There the
        conditioner sees zeros in the place of what changes.
      flip: exchange what is kept and what is changed.
      conditioner: None for a :class:`~flowdists.ConvNet`, or any callable pytree that maps images
        ``(H, W, in)`` to ``(H, W, out)`` with ``out = num_params * changed``, each parameter's
        channels together. With mask "channel", ``in`` and ``changed`` are the channels kept and
        changed, with "checkerboard" both are ``C``. A context is appended to the channels.
      context_shape: shape of one context, or None. It is flattened, and the same for every pixel.
      hidden_channels: width of the default conditioner; 512 unless given.
      residual: whether the default conditioner is a :class:`~flowdists.ResidualConvNet`.
      activation: of the default conditioner: a function, or the name of one in :mod:`jax.nn`;
        "relu" unless given.
      normalize: whether the default conditioner, not residual, normalizes its hidden layers.
      dtype: what the default conditioner computes in, such as "bfloat16".

    Raises:
      TypeError: for a key that is not a key, or a conditioner that is not callable.
      ValueError: for an event that is no image, a channel mask on a single channel, or a
        conditioner whose output does not fit, or that was given beside options of the default one.

    >>> layer = ConvCoupling(jax.random.key(0), (8, 8, 4), hidden_channels=16)
    >>> y, log_det = layer.forward_and_log_det(jnp.ones((7, 8, 8, 4)))
    >>> y.shape, log_det.shape
    ((7, 8, 8, 4), (7,))
    """

    conditioner: Any
    transformer: Transformer = static()
    event_shape: Shape = static()
    mask: str = static()
    flip: bool = static()
    context_shape: Shape | None = static(default=None)
    _carries_errors = True

    def __init__(
        self,
        key: Array,
        event_shape: Sequence[int],
        *,
        transformer: Transformer | None = None,
        mask: str = "channel",
        flip: bool = False,
        conditioner: Any = None,
        context_shape: Sequence[int] | None = None,
        hidden_channels: int | None = None,
        residual: bool = False,
        activation: Activation | None = None,
        normalize: bool = False,
        dtype: str | None = None,
    ) -> None:
        key = _check.key("ConvCoupling", key)
        transformer = Affine() if transformer is None else transformer
        self.transformer = check_transformer("ConvCoupling", transformer)
        self.event_shape = _check.image_shape("ConvCoupling", event_shape)
        self.mask = _check.one_of("ConvCoupling", "mask", mask, MASKS)
        self.flip = bool(flip)
        self.context_shape = _check.optional_shape("ConvCoupling", "context_shape", context_shape)
        if normalize and residual:
            raise ValueError(
                "ConvCoupling: `normalize` must be False for a residual conditioner, got True"
            )
        height, width, channels = self.event_shape
        kept, changed = self._num_kept, channels - self._num_kept
        if mask == "checkerboard":
            kept, changed = channels, channels
        elif channels < 2:
            raise ValueError(
                "ConvCoupling: `mask`='channel' must have at least 2 channels to split, got event "
                f"shape {self.event_shape}"
            )
        if mask == "checkerboard" and height * width < 2:
            raise ValueError(
                "ConvCoupling: `mask`='checkerboard' must have at least 2 pixels, got event shape "
                f"{self.event_shape}"
            )
        out_channels = transformer.num_params * changed
        context_size = 0 if self.context_shape is None else math.prod(self.context_shape)
        own = {
            "hidden_channels": hidden_channels,
            "residual": residual or None,
            "activation": activation,
            "normalize": normalize or None,
            "dtype": dtype,
        }
        unused = [name for name, value in own.items() if value is not None]
        if conditioner is not None and unused:
            raise ValueError(
                f"ConvCoupling: `{unused[0]}` is the default conditioner's, and `conditioner` was "
                "given: set it there"
            )
        if conditioner is None:
            options: dict[str, Any] = {
                "hidden_channels": 512 if hidden_channels is None else hidden_channels,
                "context_size": context_size,
                "activation": "relu" if activation is None else activation,
                "dtype": dtype,
            }
            if residual:
                conditioner = ResidualConvNet(key, kept, out_channels, **options)
            else:
                conditioner = ConvNet(key, kept, out_channels, normalize=normalize, **options)
        self.conditioner = as_image_conditioner(
            "ConvCoupling", conditioner, (height, width, kept), out_channels, context_size
        )

    @property
    def _num_kept(self) -> int:
        """Channels that stay, with mask "channel"."""
        channels = self.event_shape[-1]
        return channels - channels // 2 if self.flip else channels // 2

    @property
    def domain(self) -> constraints.Constraint:
        return lift_constraint(self.transformer.domain, self.event_ndims_in)

    @property
    def codomain(self) -> constraints.Constraint:
        return self.domain

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._couple("forward", x, context)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._couple("inverse", y, context)

    def _couple(
        self, direction: Direction, value: Value, context: Array | None
    ) -> tuple[Any, Array]:
        kept, changed = self._split(value)
        out = self.conditioner(rounded(kept), flatten_context(context, self.context_shape))
        if isinstance(value, Compensated):
            out = without_last_bit(out)
        stacked = out.reshape(*out.shape[:-1], self.transformer.num_params, changed.shape[-1])
        params = jnp.moveaxis(stacked, -2, 0)
        if not self.transformer._carries_errors:
            changed = rounded(changed)
        changed, log_slope = getattr(self.transformer, direction)(changed, params)
        if isinstance(value, Compensated):
            changed = compensated(changed)
        if self.mask == "checkerboard":
            changes = self._changes
            log_det = jnp.where(changes, log_slope, 0.0).sum((-3, -2, -1))
            value = value.astype(changed.dtype)
            replaced = jax.tree.map(lambda *parts: jnp.where(changes, *parts), changed, value)
            return replaced, log_det
        kept = kept.astype(changed.dtype)
        parts = (changed, kept) if self.flip else (kept, changed)
        return join_channels(*parts), log_slope.sum((-3, -2, -1))

    def _split(self, value: Value) -> tuple[Any, Any]:
        """What the conditioner sees, and what the transformer maps."""
        if self.mask == "checkerboard":
            changes = self._changes
            return jax.tree.map(lambda part: jnp.where(changes, 0.0, part), value), value
        if self.flip:
            changed, kept = split_channels(value, self.event_shape[-1] - self._num_kept)
            return kept, changed
        return split_channels(value, self._num_kept)

    @property
    def _changes(self) -> np.ndarray:
        """Where a checkerboard changes: ``(H, W, 1)``."""
        height, width, _ = self.event_shape
        odd = np.indices((height, width)).sum(axis=0) % 2 == 1
        return (odd ^ self.flip)[..., None]

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        layer = jax.tree.map(lambda leaf: leaf, self)
        if hasattr(self.conditioner, "data_init"):
            kept, _ = self._split(jnp.asarray(value))
            layer.conditioner = self.conditioner.data_init(
                kept, flatten_context(context, self.context_shape)
            )
        return layer, getattr(layer, f"{direction}_and_log_det")(value, context)[0]
