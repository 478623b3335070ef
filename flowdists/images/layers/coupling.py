"""Coupling layers on images, with convolutional conditioners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowdists import _check
from flowdists.bijectors.base import Array
from flowdists.bijectors.coupling import Coupling, check_onto_itself, no_options
from flowdists.images.check import image_shape
from flowdists.images.layers.partition import image_partition
from flowdists.images.networks.conv_net import ConvNet, ResidualConvNet, ZeroConv
from flowdists.networks.base import Activation
from flowdists.networks.conditioner import as_conditioner, context_size
from flowdists.transformers import ShiftScale, Transformer


class ConvCoupling(Coupling):
    r"""A coupling layer on images (Dinh et al. 2017, https://arxiv.org/abs/1605.08803).

    The mask splits an image into ``(a, b)``. With a transformer ``T``, ``forward`` computes
    ``a' = a`` and ``b' = T(b; conditioner(a, context))``. Both directions cost one evaluation of
    the conditioner.

    Args:
      key: PRNG key for the conditioner's parameters.
      event_shape: ``(H, W, C)``.
      transformer: the family of scalar maps, each from a set onto itself; affine unless given. A
        new layer is the identity.
      mask: "channel", where the second half of the channels changes; or "checkerboard", where all
        channels change at the pixels whose row and column sum to an odd number. With
        "checkerboard" the conditioner sees zeros at the pixels that change.
      flip: whether to exchange what is kept and what is changed.
      conditioner: None for a :class:`~flowdists.ConvNet`, or any callable pytree that maps images
        ``(H, W, in)`` to ``(H, W, out)`` with ``out = num_params * changed``. The channels of one
        parameter stand together. With mask "channel", ``in`` and ``changed`` are the numbers of
        channels kept and changed; with "checkerboard" both are ``C``. A context is appended to the
        channels.
      context_shape: shape of one context, or None. It is flattened, and the same for every pixel.
      hidden_channels: width of the default conditioner; 512 unless given.
      residual: whether the default conditioner is a :class:`~flowdists.ResidualConvNet`.
      activation: of the default conditioner: a function, or the name of one in :mod:`jax.nn`;
        "relu" unless given.
      normalize: whether the default conditioner, not residual, normalizes its hidden layers.
      dtype: the dtype in which the default conditioner computes, such as "bfloat16".

    Raises:
      TypeError: for a key that is not a key, or a conditioner that is not callable.
      ValueError: for an event that is not an image, a channel mask on a single channel, a
        transformer whose codomain is not its domain, a conditioner whose output does not fit, or a
        conditioner together with options of the default one.

    >>> layer = ConvCoupling(jax.random.key(0), (8, 8, 4), hidden_channels=16)
    >>> y, log_det = layer.forward_and_log_det(jnp.ones((7, 8, 8, 4)))
    >>> y.shape, log_det.shape
    ((7, 8, 8, 4), (7,))
    """

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
        caller = "ConvCoupling"
        key = _check.key(caller, key)
        shape = image_shape(caller, event_shape)
        self.transformer = check_onto_itself(caller, transformer or ShiftScale())
        self.partition = image_partition(caller, shape, mask, flip)
        self.context_shape = _check.optional_shape(caller, "context_shape", context_shape)
        num_context = context_size(self.context_shape)
        kept, changed = self.partition.num_channels
        out_channels = self.transformer.num_params * changed
        options: dict[str, Any] = {
            "hidden_channels": hidden_channels,
            "activation": activation,
            "dtype": dtype,
            "normalize": normalize,
        }
        if conditioner is not None:
            no_options(caller, residual=residual, **options)
        elif residual and normalize:
            raise ValueError(
                f"{caller}: `normalize` must be False for a residual conditioner, got True"
            )
        else:
            given = {name: value for name, value in options.items() if value not in (None, False)}
            given = {"hidden_channels": 512, **given}
            network = ResidualConvNet if residual else ConvNet
            conditioner = network(key, kept, out_channels, context_size=num_context, **given)
        self.conditioner = as_conditioner(
            caller, conditioner, (*shape[:2], kept), out_channels, num_context
        )


class SplitPrior(Coupling):
    r"""The learned prior of the latents that Glow sets aside, as a bijector.

    The first half ``h`` of the channels stays. The second half becomes ``mu(h) + sigma(h) * z``,
    where ``mu`` and ``log sigma`` come from a convolution of ``h`` that starts at zero
    (:class:`~flowdists.images.ZeroConv`). For standard normal ``z`` that is a draw from
    :math:`N(\mu(h), \sigma(h))`. A flow through this layer thus has the density that Kingma &
    Dhariwal 2018 (https://arxiv.org/abs/1807.03039) write as a sum of Gaussian terms.

    Args:
      event_shape: ``(H, W, C)``, with at least two channels.
      context_shape: shape of one context, or None. Its weights start at zero.

    Raises:
      ValueError: if the event is not an image, or has a single channel.

    >>> SplitPrior((4, 4, 6)).inverse(jnp.ones((5, 4, 4, 6))).shape
    (5, 4, 4, 6)
    """

    def __init__(
        self, event_shape: Sequence[int], *, context_shape: Sequence[int] | None = None
    ) -> None:
        shape = image_shape("SplitPrior", event_shape)
        self.transformer = ShiftScale(scale="exp")
        self.partition = image_partition("SplitPrior", shape, "channel", flip=False)
        self.context_shape = _check.optional_shape("SplitPrior", "context_shape", context_shape)
        num_context = context_size(self.context_shape)
        kept, changed = self.partition.num_channels
        self.conditioner = ZeroConv(kept, 2 * changed, num_context)
