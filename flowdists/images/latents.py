"""Images to latents, one array for each scale, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from flowdists import _check
from flowdists._events import flatten_event, join_vector, split_vector
from flowdists.bases import temper
from flowdists.bijectors.base import Array, Shape
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.images import check


def encode(flow: Flow, x: Any) -> tuple[Array, ...]:
    """Map images to latents, one array for each scale of the flow, the finest first.

    The latents are values of the flow's base. They are cut into the pieces that the flow's bijector
    states (``latent_shapes``), as a :class:`~flowdists.MultiScale` does. A bijector that states
    none has one scale, whose latents have the shape of the base's events.

    Args:
      flow: the density of images. A conditional flow takes its context first.
      x: images, ``(*batch, *event_shape)``.

    Returns:
      Latents, an array ``(*batch, *shape)`` for each scale.

    Raises:
      TypeError: if ``flow`` is not a Flow, or if ``x`` is not floating point.
      ValueError: if ``x`` has another event shape, or if it is known to hold NaN or levels 0 to 255
        cast to floats.

    >>> from flowdists.images import decode, encode
    >>> flow = Flow(StandardNormal((64,)), MultiScale([Inverse(Squeeze((8, 8, 1))),
    ...                                                Inverse(Squeeze((4, 4, 2)))]))
    >>> latents = encode(flow, jnp.ones((5, 8, 8, 1)))
    >>> [part.shape for part in latents], decode(flow, latents).shape
    ([(5, 4, 4, 2), (5, 2, 2, 8)], (5, 8, 8, 1))
    """
    return encode_as("encode", "x", flow, x)


def decode(flow: Flow, latents: Sequence[Any]) -> Array:
    """Map latents to images: the inverse of :func:`encode`.

    Args:
      flow: the density of images.
      latents: an array ``(*batch, *shape)`` for each scale, the finest first. Batch shapes
        broadcast, so that a few coarse latents can be combined with many fine ones.

    Returns:
      Images, ``(*batch, *event_shape)``.

    Raises:
      TypeError: if ``flow`` is not a Flow, or if latents are not floating point.
      ValueError: if the number of latents is not that of scales, or if their shapes do not fit.

    >>> from flowdists.images import decode
    >>> flow = Flow(StandardNormal((64,)), MultiScale([Inverse(Squeeze((8, 8, 1))),
    ...                                                Inverse(Squeeze((4, 4, 2)))]))
    >>> decode(flow, [jnp.ones((10, 4, 4, 2)), jnp.zeros((2, 2, 8))]).shape
    (10, 8, 8, 1)
    """
    flow = as_flow("decode", flow)
    return flow.bijector(
        join(flow, check.latents("decode", "latents", latents, latent_shapes(flow)))
    )


def encode_as(caller: str, argument: str, flow: Any, x: Any) -> tuple[Array, ...]:
    """Call :func:`encode` for another function, whose name and argument its errors give."""
    flow = as_flow(caller, flow)
    x = check.pixels(caller, argument, x)
    _check.event_shape(caller, argument, x.shape, flow.event_shape, flow.event_dim)
    return split(flow, flow.bijector.inverse(x))


def as_flow(caller: str, flow: Any) -> Flow:
    """``flow``, if it is a Flow. For a ConditionalFlow the error says how to give it a context."""
    if isinstance(flow, Flow):
        return flow
    conditional = isinstance(flow, ConditionalFlow)
    hint = "; give it a context first: `flow.condition(context)`" if conditional else ""
    raise TypeError(f"{caller}: `flow` must be a Flow, got {type(flow).__name__}{hint}")


def latent_shapes(flow: Flow) -> tuple[Shape, ...]:
    """The shapes of one image's latents, the finest scale first."""
    shapes = flow.bijector.latent_shapes
    return (flow.base.event_shape,) if shapes is None else shapes


def split(flow: Flow, z: Array) -> tuple[Array, ...]:
    """A value of the base as latents, one array for each scale."""
    return split_vector(flatten_event(z, flow.base.event_shape), latent_shapes(flow))


def join(flow: Flow, latents: Sequence[Array]) -> Array:
    """The inverse of :func:`split`, for latents that have been checked."""
    flat = join_vector(latents, latent_shapes(flow))
    return flat.reshape(*flat.shape[:-1], *flow.base.event_shape)


def center(flow: Flow) -> Array:
    """The location of the flow's base, ``(*batch_shape, *event_shape)`` of the base.

    Raises:
      TypeError: if the base has no location and scale.
    """
    # At temperature 0 every draw is the location, whatever the key. A mean may not exist.
    return temper(flow.base, 0.0).sample(jax.random.key(0))
