"""Images as latents, scale by scale, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flowdists import _check
from flowdists.bases import temper
from flowdists.bijectors._events import batch_of, flatten_event, join_vector, split_vector
from flowdists.bijectors.base import Array, Shape
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.images import check


def encode(flow: Flow, x: Any) -> tuple[Array, ...]:
    """Images as latents, one array for each scale of the flow, the finest first.

    The latents are values of the flow's base, cut into the pieces that the flow's bijector states
    (``latent_shapes``), as a :class:`~flowdists.MultiScale` does. A bijector that states none has
    one scale, with latents of the shape of the base's events.

    Args:
      flow: the density of images. A conditional flow takes its context first.
      x: images, ``(*batch, *event_shape)``.

    Returns:
      Latents, ``(*batch, *shape)`` with a shape for each scale.

    Raises:
      TypeError: if ``flow`` is not a Flow, or ``x`` not floating point.
      ValueError: if ``x`` has another event shape; or is known to hold NaN, or levels 0 to 255 cast
        to floats.

    >>> from flowdists.images import decode, encode
    >>> flow = Flow(StandardNormal((64,)), MultiScale([Inverse(Squeeze((8, 8, 1))),
    ...                                                Inverse(Squeeze((4, 4, 2)))]))
    >>> latents = encode(flow, jnp.ones((5, 8, 8, 1)))
    >>> [part.shape for part in latents], decode(flow, latents).shape
    ([(5, 4, 4, 2), (5, 2, 2, 8)], (5, 8, 8, 1))
    """
    return encode_as("encode", "x", flow, x)


def decode(flow: Flow, latents: Sequence[Any]) -> Array:
    """The inverse of :func:`encode`: images of latents, given scale by scale, the finest first.

    Args:
      flow: the density of images.
      latents: an array ``(*batch, *shape)`` for each scale. Batch shapes broadcast, so that a few
        coarse latents can be combined with many fine ones.

    Returns:
      Images, ``(*batch, *event_shape)``.

    Raises:
      TypeError: if ``flow`` is not a Flow, or latents are not floating point.
      ValueError: if there are not as many latents as scales, or their shapes do not fit.

    >>> from flowdists.images import decode
    >>> flow = Flow(StandardNormal((64,)), MultiScale([Inverse(Squeeze((8, 8, 1))),
    ...                                                Inverse(Squeeze((4, 4, 2)))]))
    >>> decode(flow, [jnp.ones((10, 4, 4, 2)), jnp.zeros((2, 2, 8))]).shape
    (10, 8, 8, 1)
    """
    flow = as_flow("decode", flow)
    return flow.bijector(join(flow, as_latents("decode", "latents", flow, latents)))


def encode_as(caller: str, argument: str, flow: Any, x: Any) -> tuple[Array, ...]:
    """:func:`encode` for the argument of another function, which its errors name."""
    flow = as_flow(caller, flow)
    x = check.pixels(caller, argument, x)
    _check.event_shape(caller, argument, x.shape, flow.event_shape, flow.event_dim)
    return split(flow, flow.bijector.inverse(x))


def as_flow(caller: str, flow: Any) -> Flow:
    """``flow``, if it is one that waits for no context."""
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
    """A value of the base as latents, scale by scale."""
    return split_vector(flatten_event(z, flow.base.event_shape), latent_shapes(flow))


def join(flow: Flow, latents: Sequence[Array]) -> Array:
    """The inverse of :func:`split`, for latents that :func:`as_latents` has checked."""
    flat = join_vector(latents, latent_shapes(flow))
    return flat.reshape(*flat.shape[:-1], *flow.base.event_shape)


def as_latents(caller: str, argument: str, flow: Flow, latents: Any) -> tuple[Array, ...]:
    """``latents`` as arrays, if they have the scales' shapes and batch shapes that broadcast."""
    shapes = latent_shapes(flow)
    if not isinstance(latents, list | tuple) or len(latents) != len(shapes):
        given = len(latents) if isinstance(latents, list | tuple) else type(latents).__name__
        raise ValueError(
            f"{caller}: `{argument}` must be a sequence of {len(shapes)} arrays, one for each "
            f"scale of the flow, got {given}"
        )
    parts = []
    for i, (part, shape) in enumerate(zip(latents, shapes, strict=True)):
        part = _check.float_array(caller, f"{argument}[{i}]", part)
        _check.event_shape(caller, f"{argument}[{i}]", part.shape, shape, len(shape))
        parts.append(part)
    batches = [batch_of(part, shape) for part, shape in zip(parts, shapes, strict=True)]
    broadcast(caller, f"the batch shapes of `{argument}`", *batches)
    return tuple(parts)


def broadcast(caller: str, what: str, *shapes: Shape) -> Shape:
    """The shape that ``shapes`` broadcast to, or an error about ``what``."""
    try:
        return jnp.broadcast_shapes(*shapes)
    except ValueError:
        given = " and ".join(map(str, shapes))
        raise ValueError(f"{caller}: {what} must broadcast, got {given}") from None


def center(flow: Flow) -> Array:
    """The location of the flow's base, ``(*batch_shape, *event_shape)`` of the base.

    Raises:
      TypeError: if the base has no location and scale.
    """
    # At temperature 0 every draw is the location, whatever the key: also where there is no mean.
    return temper(flow.base, 0.0).sample(jax.random.key(0))
