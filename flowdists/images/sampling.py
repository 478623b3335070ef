"""Samples of noise that is given, or partly that of other images."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.bijectors._events import batch_of
from flowdists.bijectors.base import Array
from flowdists.flow import Flow
from flowdists.images.latents import as_flow, center, encode_as, join, latent_shapes, split


def sample_from_noise(flow: Flow, noise: Any, temperature: Any = 1.0) -> Array:
    """Images of given noise: the same pictures through training, at any temperature.

    Args:
      flow: the density of images.
      noise: values of the flow's base, ``(*batch, D)``, as ``flow.base.sample(key, (n,))`` of the
        first of the flows to compare.
      temperature: what the noise is multiplied by, about the location of the base: a number, or
        one for each scale, the finest first (Kingma & Dhariwal 2018 sample at 0.7). The images are
        those that ``flow.with_temperature`` has for the key of the noise.

    Returns:
      Images, ``(*batch, *event_shape)``.

    Raises:
      TypeError: if ``flow`` is not a Flow, ``noise`` not floating point, or the base has no scale
        and the temperature is not 1.
      ValueError: if the noise has another event shape, or for bad temperatures.

    >>> from flowdists.images import sample_from_noise
    >>> flow = Flow(StandardNormal((64,)), MultiScale([Inverse(Squeeze((8, 8, 1))),
    ...                                                Inverse(Squeeze((4, 4, 2)))]))
    >>> noise = flow.base.sample(jax.random.key(0), (5,))
    >>> sample_from_noise(flow, noise, temperature=[0.0, 0.7]).shape  # no fine detail
    (5, 8, 8, 1)
    """
    caller = "sample_from_noise"
    flow = as_flow(caller, flow)
    noise = _check.float_array(caller, "noise", noise)
    _check.event_shape(caller, "noise", noise.shape, flow.base.event_shape, flow.base.event_dim)
    return flow.bijector(_scale_noise(caller, flow, noise, temperature))


def reconstruct(key: Array, flow: Flow, x: Any, num_kept: int, temperature: Any = 1.0) -> Array:
    """Images of which only the coarsest scales are kept; what is finer is drawn anew.

    With as many scales as the flow has, these are the images themselves; with none, samples, the
    same as ``flow.sample(key, batch)``. In between they show what each scale knows of an image
    (Dinh et al. 2017).

    Args:
      key: PRNG key.
      flow: the density of images.
      x: images, ``(*batch, *event_shape)``.
      num_kept: how many of the coarsest scales keep their latents.
      temperature: of the latents that are drawn, as in :func:`sample_from_noise`.

    Returns:
      Images, ``(*batch, *event_shape)``.

    Raises:
      TypeError: for a key that is not a key; otherwise as :func:`encode` and
        :func:`sample_from_noise`.
      ValueError: if ``num_kept`` is not from 0 to the number of scales; otherwise as these two.

    >>> from flowdists.images import reconstruct
    >>> flow = Flow(StandardNormal((64,)), MultiScale([Inverse(Squeeze((8, 8, 1))),
    ...                                                Inverse(Squeeze((4, 4, 2)))]))
    >>> reconstruct(jax.random.key(0), flow, jnp.ones((5, 8, 8, 1)), num_kept=1).shape
    (5, 8, 8, 1)
    """
    caller = "reconstruct"
    key = _check.key(caller, key)
    latents = encode_as(caller, "x", flow, x)
    num_kept = _check.positive_int(caller, "num_kept", num_kept, least=0)
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
    """Move a value of the base, towards its location, to another temperature.

    Args:
      caller: what to call the caller in an error message.
      flow: supplies the base and the scales.
      noise: a value of the base.
      temperature: a number, or one for each scale, the finest first.
    """
    if isinstance(temperature, int | float) and temperature == 1:
        return noise  # of any base: one without a scale has no other temperature
    num_scales = len(latent_shapes(flow))
    factors = jnp.asarray(temperature)
    if factors.shape not in ((), (num_scales,)):
        raise ValueError(
            f"{caller}: `temperature` must be a number, or {num_scales} of them, one for each "
            f"scale of the flow, got shape {factors.shape}"
        )
    known = not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(temperature))
    if known and not (np.asarray(temperature) >= 0).all():
        raise ValueError(f"{caller}: `temperature` must be at least 0, got {temperature}")
    factors = jnp.broadcast_to(factors, (num_scales,)).astype(noise.dtype)
    centers = split(flow, center(flow).astype(noise.dtype))
    parts = zip(centers, split(flow, noise), factors, strict=True)
    return join(flow, [c + factor * (part - c) for c, part, factor in parts])
