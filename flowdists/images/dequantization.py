"""The likelihood of discrete images under a density, and learned noise for a tighter bound."""

from __future__ import annotations

import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints

from flowdists import _check
from flowdists._pytree import describe, make_pytree_class
from flowdists.bases import StandardLogistic, StandardNormal
from flowdists.bijectors.base import Array, Bijector
from flowdists.bijectors.compose.chain import Chain
from flowdists.bijectors.compose.conditioned import Conditioned
from flowdists.bijectors.support import to_support
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.images import check
from flowdists.images.latents import as_flow
from flowdists.images.learned_noise import LearnedNoise
from flowdists.images.pixels import centers, check_num_bits, dequantize, levels_of, place


class Dequantizer(Protocol):
    """Noise for images: a distribution on (0, 1) for each pixel, given the image."""

    def sample_and_log_prob(
        self, key: Array, images: Array, num_bits: int = 8
    ) -> tuple[Array, Array]:
        """Draw noise of the shape of uint8 ``images``, and its log-density in nats, ``batch``."""
        ...


class VariationalDequantizer:
    """Noise that a conditional flow learns.

    From Ho, Chen, Srinivas, Duan & Abbeel 2019 (https://arxiv.org/abs/1902.00275). The flow's
    layers map standard logistic draws to logits of the noise. Their context is the image, at the
    middles of its bins on the scale (-0.5, 0.5). Layers of recipes start as the identity, so that
    the noise starts uniform. Training together with the density, by
    :func:`~flowdists.images.fit_dequantized`, makes the bound of :func:`~flowdists.image_log_prob`
    tighter than uniform noise does. The leaves are the flow's parameters.

    Args:
      flow: a flow whose event shape and context shape are those of an image. Recipes for vectors
        take events and contexts of any rank, such as
        ``RealNVP(key, (28, 28, 1), context_shape=(28, 28, 1))``. Only the layers are used. The base
        must be the default, standard normal.

    Raises:
      TypeError: if ``flow`` is not a ConditionalFlow.
      ValueError: if its context shape is not its event shape, or if its base is not standard normal
        or has batch axes.

    >>> from flowdists.images import VariationalDequantizer
    >>> flow = RealNVP(jax.random.key(0), (2, 2, 1), context_shape=(2, 2, 1), num_layers=1)
    >>> images = jnp.zeros((5, 2, 2, 1), jnp.uint8)
    >>> noise, log_prob = VariationalDequantizer(flow).sample_and_log_prob(
    ...     jax.random.key(1), images
    ... )
    >>> noise.shape, log_prob.shape
    ((5, 2, 2, 1), (5,))
    """

    flow: ConditionalFlow

    def __init__(self, flow: ConditionalFlow) -> None:
        check.instance("VariationalDequantizer", "flow", flow, ConditionalFlow)
        if flow.context_shape != flow.event_shape:
            raise ValueError(
                "VariationalDequantizer: `flow` must have the shape of an image for both its "
                f"events and its contexts, got {flow.event_shape} and {flow.context_shape}"
            )
        if not isinstance(flow.base, StandardNormal) or flow.base.batch_shape != ():
            raise ValueError(
                "VariationalDequantizer: `flow` must have a standard normal base, which standard "
                "logistic draws replace, and no batch axes; got "
                f"{type(flow.base).__name__} of batch shape {flow.base.batch_shape}"
            )
        self.flow = flow

    def condition(self, images: Any, num_bits: int = 8) -> Flow:
        """Return the distribution of the noise, whose elements lie in (0, 1).

        Args:
          images: uint8, ``(*batch, *event_shape)``.
          num_bits: bits of the images that are kept, from 1 to 8.
        """
        caller, shape = "VariationalDequantizer", self.flow.event_shape
        levels = levels_of(caller, images, num_bits)
        _check.event_shape(caller, "images", levels.shape, shape, len(shape))
        layer = Conditioned(self.flow.bijector, centers(levels, num_bits))
        base = StandardLogistic(shape)
        return Flow(base, Chain([layer, to_support(constraints.unit_interval)]))

    def layer(self, num_bits: int = 8) -> Bijector:
        """Return the last layer of a flow, which maps learned noise to uniform noise.

        At uniformly dequantized images, the ``log_prob`` of a flow that ends in this layer is the
        bound of the learned noise, as a log-density. It takes the place of
        :func:`~flowdists.image_log_prob`, which is a log-mass.

        Args:
          num_bits: bits of the images, from 1 to 8.

        >>> from flowdists.images import VariationalDequantizer
        >>> shape = (2, 2, 1)
        >>> noise = RealNVP(jax.random.key(0), shape, context_shape=shape, num_layers=1)
        >>> layer = VariationalDequantizer(noise).layer(num_bits=5)
        >>> flow = Flow(StandardNormal(shape), Chain([Reverse(shape), layer]))
        >>> images = jnp.zeros((7, 2, 2, 1), jnp.uint8)
        >>> x = fd.dequantize(jax.random.key(1), images, num_bits=5)
        >>> jax.jit(flow.log_prob)(x).shape
        (7,)
        """
        return LearnedNoise(
            self.flow.bijector, check_num_bits("VariationalDequantizer.layer", num_bits)
        )

    def sample_and_log_prob(
        self, key: Array, images: Any, num_bits: int = 8
    ) -> tuple[Array, Array]:
        """Draw noise for ``images`` and score it.

        Args:
          key: PRNG key.
          images: uint8, ``(*batch, *event_shape)``.
          num_bits: bits of the images that are kept, from 1 to 8.

        Returns:
          Noise in (0, 1), of the shape of ``images``, and its log-densities in nats, ``batch``.
        """
        return self.condition(images, num_bits).sample_and_log_prob(key)

    def __repr__(self) -> str:
        return describe(self)


make_pytree_class(VariationalDequantizer)


def image_log_prob(
    key: Array,
    flow: Flow,
    images: Any,
    *,
    num_bits: int = 8,
    dequantizer: Dequantizer | None = None,
    num_samples: int = 1,
) -> Array:
    r"""A lower bound, in expectation, of the log-mass of discrete images under a density.

    The mass of an image is the integral of the density over its bin. It is estimated by importance
    sampling (Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519). With :math:`D`
    elements of :math:`b` bits, the result is

    .. math:: \log \frac1S \sum_{s=1}^S \frac{p(x_s)\, 2^{-bD}}{q(u_s \mid image)},
        \qquad x_s = (k + u_s) / 2^b - 1/2, \quad u_s \sim q.

    More samples make the bound tighter; in the limit it is the log-mass. As the result is already a
    mass, bits per dimension are ``bits_per_dim(image_log_prob(...), event_shape, num_bits=0)``.

    Args:
      key: PRNG key.
      flow: the density, on the scale [-0.5, 0.5) of :func:`~flowdists.dequantize`.
      images: uint8 levels 0 to 255, ``(*batch, *event_shape)``.
      num_bits: the bits that make the discrete image, from 1 to 8; the others are cut off.
      dequantizer: the noise ``q``, such as a :class:`~flowdists.VariationalDequantizer`; uniform
        unless given (Theis, van den Oord & Bethge 2016, https://arxiv.org/abs/1511.01844).
        Gradients reach its parameters.
      num_samples: samples ``S`` for each image, drawn and scored one after the other.

    Returns:
      Log-masses in nats, of the batch shape of ``images``, broadcast with that of ``flow``.

    Raises:
      TypeError: if an argument has the wrong type; images must be uint8.
      ValueError: if an argument is out of range or of the wrong shape.

    >>> from flowdists.images import bits_per_dim, image_log_prob
    >>> flow = Flow(StandardUniform((4, 4, 1), -0.5, 0.5), Reverse((4, 4, 1)))
    >>> images = jnp.zeros((10, 4, 4, 1), jnp.uint8)
    >>> log_mass = image_log_prob(jax.random.key(0), flow, images, num_bits=5)
    >>> print(bits_per_dim(log_mass, (4, 4, 1), num_bits=0)[0])  # all 5-bit images alike
    5.0
    """
    caller = "image_log_prob"
    key = _check.key(caller, key)
    flow = as_flow(caller, flow)
    levels = levels_of(caller, images, num_bits)
    images = jnp.asarray(images)
    _check.event_shape(caller, "images", images.shape, flow.event_shape, flow.event_dim)
    num_samples = _check.positive_int(caller, "num_samples", num_samples)
    if not (dequantizer is None or hasattr(dequantizer, "sample_and_log_prob")):
        raise TypeError(
            f"{caller}: `dequantizer` must have a method `sample_and_log_prob`, got "
            f"{type(dequantizer).__name__}"
        )
    log_volume = -num_bits * math.prod(flow.event_shape) * math.log(2)

    def log_weight(key: Array) -> Array:
        if dequantizer is None:
            return flow.log_prob(dequantize(key, images, num_bits=num_bits)) + log_volume
        u, log_noise = dequantizer.sample_and_log_prob(key, images, num_bits)
        return flow.log_prob(place(levels, u, num_bits)) - log_noise + log_volume

    if num_samples == 1:  # as in training: inside a loop convolutions would be slower
        return log_weight(key)
    log_weights = jax.lax.map(log_weight, jax.random.split(key, num_samples))
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(num_samples)
