"""Samples from given noise, and from the coarse scales of given images."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists._events import batch_of
from flowdists._pytree import is_traced
from flowdists.bijectors.base import Array
from flowdists.flow import Flow
from flowdists.images import check
from flowdists.images.latents import as_flow, center, encode_as, join, latent_shapes, split


def sample_from_noise(flow: Flow, noise: Any, temperature: Any = 1.0) -> Array:
    """Images from given noise: the same pictures throughout training, at any temperature.

    Args:
      flow: the density of images.
      noise: values of the flow's base, ``(*batch, D)``, such as ``flow.base.sample(key, (n,))``.
        Draw them once, and give them to all flows that are compared.
      temperature: the factor of the noise, about the location of the base: a number, or one for
        each scale, the finest first (Kingma & Dhariwal 2018, https://arxiv.org/abs/1807.03039,
        sample at 0.7). With the key of the noise, ``flow.with_temperature`` samples the same
        images.

    Returns:
      Images, ``(*batch, *event_shape)``.

    Raises:
      TypeError: if ``flow`` is not a Flow, if ``noise`` is not floating point, or if the base has
        no scale and the temperature is not 1.
      ValueError: if the noise has another event shape, or if a temperature is negative, or if the
        number of temperatures is not that of scales.

    >>> from flowdists.images import sample_from_noise
    >>> flow = Flow(StandardNormal((64,)), MultiScale([Inverse(Squeeze((8, 8, 1))),
    ...                                                Inverse(Squeeze((4, 4, 2)))]))
    >>> noise = flow.base.sample(jax.random.key(0), (5,))
    >>> sample_from_noise(flow, noise, temperature=[0.0, 0.7]).shape  # no fine detail
    (5, 8, 8, 1)
    """
    caller = "sample_from_noise"
    flow = as_flow(caller, flow)
    noise = check.events(caller, "noise", noise, flow.base.event_shape)
    return flow.bijector(_scale_noise(caller, flow, noise, temperature))


def reconstruct(key: Array, flow: Flow, x: Any, num_kept: int, temperature: Any = 1.0) -> Array:
    """Keep the coarsest scales of images, and draw the finer ones anew.

    With all scales kept, the result is the images themselves. With none, it is the samples
    ``flow.sample(key, batch)``. In between it shows what each scale contributes to an image (Dinh
    et al. 2017, https://arxiv.org/abs/1605.08803).

    Args:
      key: PRNG key.
      flow: the density of images.
      x: images, ``(*batch, *event_shape)``.
      num_kept: the number of coarse scales that keep their latents.
      temperature: of the latents that are drawn, as in :func:`sample_from_noise`.

    Returns:
      Images, ``(*batch, *event_shape)``.

    Raises:
      TypeError: for a key that is not a key; otherwise as :func:`encode` and
        :func:`sample_from_noise`.
      ValueError: if ``num_kept`` is not from 0 to the number of scales; otherwise as these two
        functions.

    >>> from flowdists.images import reconstruct
    >>> flow = Flow(StandardNormal((64,)), MultiScale([Inverse(Squeeze((8, 8, 1))),
    ...                                                Inverse(Squeeze((4, 4, 2)))]))
    >>> reconstruct(jax.random.key(0), flow, jnp.ones((5, 8, 8, 1)), num_kept=1).shape
    (5, 8, 8, 1)
    """
    caller = "reconstruct"
    key = _check.key(caller, key)
    latents = encode_as(caller, "x", flow, x)
    num_kept = _check.positive_int(caller, "num_kept", num_kept, minimum=0)
    if num_kept > len(latents):
        raise ValueError(
            f"{caller}: `num_kept` must be at most the number of scales, {len(latents)}, got "
            f"{num_kept}"
        )
    batch = jnp.broadcast_shapes(batch_of(jnp.asarray(x), flow.event_shape), flow.batch_shape)
    noise = flow.base.expand(batch).sample(key)
    drawn = split(flow, _scale_noise(caller, flow, noise, temperature))
    cut = len(latents) - num_kept
    return flow.bijector(join(flow, (*drawn[:cut], *latents[cut:])))


def _scale_noise(caller: str, flow: Flow, noise: Array, temperature: Any) -> Array:
    """``noise``, a value of the base, multiplied by the temperature about the base's location."""
    if isinstance(temperature, int | float) and temperature == 1:
        return noise  # also for a base without a scale, which has no other temperature
    num_scales = len(latent_shapes(flow))
    factors = jnp.asarray(temperature)
    if factors.shape not in ((), (num_scales,)):
        raise ValueError(
            f"{caller}: `temperature` must be a number, or {num_scales} of them, one for each "
            f"scale of the flow, got shape {factors.shape}"
        )
    is_known = not any(map(is_traced, jax.tree.leaves(temperature)))
    if is_known and not (np.asarray(temperature) >= 0).all():
        raise ValueError(f"{caller}: `temperature` must be at least 0, got {temperature}")
    factors = jnp.broadcast_to(factors, (num_scales,)).astype(noise.dtype)
    centers = split(flow, center(flow).astype(noise.dtype))
    pieces = zip(centers, split(flow, noise), factors, strict=True)
    return join(flow, [c + factor * (piece - c) for c, piece, factor in pieces])
