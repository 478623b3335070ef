"""Images changed by way of their latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from flowdists import _check
from flowdists.bijectors._events import batch_of
from flowdists.bijectors.base import Array
from flowdists.flow import Flow
from flowdists.images.latents import (
    as_latents,
    broadcast,
    center,
    encode_as,
    join,
    latent_shapes,
    split,
)


def interpolate(
    flow: Flow,
    x_a: Any,
    x_b: Any,
    num_steps: int,
    *,
    scales: Sequence[int] | None = None,
    spherical: bool = False,
) -> Array:
    """Images on the way from ``x_a`` to ``x_b``, at equal steps in latent space.

    A straight line between two draws of a normal in many dimensions passes closer to its mean than
    any draw comes: half-way at 0.71 of the distance, where images look as at a temperature of 0.71.
    The spherical way keeps the distance (White 2016): scale by scale, about the location of the
    base, the direction follows a great circle at constant speed while the norm goes from the one
    to the other linearly. Between latents on opposite sides, where no great circle is singled out,
    it leads through the location.

    Args:
      flow: the density of images.
      x_a: where to start, ``(*batch, *event_shape)``.
      x_b: where to end; the shapes broadcast.
      num_steps: how many images, at least 2, both ends included.
      scales: which scales change, 0 the finest and -1 the coarsest; all unless given. The others
        stay those of ``x_a``.
      spherical: whether to go on great circles.

    Returns:
      Images, ``(num_steps, *batch, *event_shape)``. The first is ``x_a``, and the last ``x_b`` if
      all scales change, up to rounding.

    Raises:
      TypeError: as :func:`encode`; or if ``spherical`` and the base has no location.
      ValueError: as :func:`encode`; or if ``num_steps`` or a scale is out of range.

    >>> from flowdists.images import interpolate
    >>> flow = Flow(StandardNormal((64,)), MultiScale([Inverse(Squeeze((8, 8, 1))),
    ...                                                Inverse(Squeeze((4, 4, 2)))]))
    >>> x = flow.sample(jax.random.key(0), (2, 5))
    >>> interpolate(flow, x[0], x[1], num_steps=7, spherical=True).shape
    (7, 5, 8, 8, 1)
    """
    caller = "interpolate"
    start = encode_as(caller, "x_a", flow, x_a)
    stop = encode_as(caller, "x_b", flow, x_b)
    broadcast(caller, "the shapes of `x_a` and `x_b`", jnp.shape(x_a), jnp.shape(x_b))
    num_steps = _check.positive_int(caller, "num_steps", num_steps, least=2)
    changed = _scales(caller, scales, len(start))
    shapes = latent_shapes(flow)
    centers = split(flow, center(flow)) if spherical else ()
    latents = []
    for i, (a, b) in enumerate(zip(start, stop, strict=True)):
        a, b = jnp.broadcast_arrays(a, b)
        t = jnp.linspace(0.0, 1.0, num_steps, dtype=a.dtype).reshape(num_steps, *[1] * a.ndim)
        if i not in changed:
            latents.append(jnp.broadcast_to(a, (num_steps, *a.shape)))
        elif spherical:
            c = centers[i].astype(a.dtype)
            latents.append(c + _great_circle(a - c, b - c, t, len(shapes[i])))
        else:
            latents.append((1 - t) * a + t * b)
    return flow.bijector(join(flow, latents))


def attribute_direction(flow: Flow, x_with: Any, x_without: Any) -> tuple[Array, ...]:
    """The way in latent space from images without an attribute to those with it.

    It is the difference of the mean latents (Kingma & Dhariwal 2018), which :func:`move` follows.

    Args:
      flow: the density of images.
      x_with: images that have the attribute, ``(*batch, *event_shape)``.
      x_without: images that do not, of any other batch shape.

    Returns:
      An array of the shape of one image's latents for each scale, the finest first.

    Raises:
      TypeError: as :func:`encode`.
      ValueError: as :func:`encode`; or if there are no images.

    >>> from flowdists.images import attribute_direction, move
    >>> flow = Flow(StandardNormal((64,)), MultiScale([Inverse(Squeeze((8, 8, 1))),
    ...                                                Inverse(Squeeze((4, 4, 2)))]))
    >>> bright, dark = jnp.full((10, 8, 8, 1), 0.4), jnp.full((20, 8, 8, 1), -0.4)
    >>> direction = attribute_direction(flow, bright, dark)
    >>> print(move(flow, dark, direction, strength=0.5).max().round(3))
    0.0
    """
    caller = "attribute_direction"
    means = [_mean_latents(caller, "x_with", flow, x_with)]
    means.append(_mean_latents(caller, "x_without", flow, x_without))
    return tuple(a - b for a, b in zip(*means, strict=True))


def move(flow: Flow, x: Any, direction: Sequence[Any], strength: Any) -> Array:
    """Images moved along a direction in latent space.

    Args:
      flow: the density of images.
      x: images, ``(*batch, *event_shape)``.
      direction: an array for each scale, as from :func:`attribute_direction`.
      strength: by how much, in units of ``direction``: a number, or an array that broadcasts with
        ``batch``; of shape ``(n, 1)``, say, for ``n`` versions of a batch of images.

    Returns:
      Images, ``(*batch, *event_shape)``.

    Raises:
      TypeError: as :func:`encode`.
      ValueError: as :func:`encode`; or if direction or strength does not fit.

    >>> from flowdists.images import move
    >>> flow = Flow(StandardNormal((2, 2, 1)), Reverse((2, 2, 1)))  # a single scale
    >>> strength = jnp.linspace(-1.0, 1.0, 7)[:, None]
    >>> move(flow, jnp.zeros((5, 2, 2, 1)), [jnp.ones((2, 2, 1))], strength).shape
    (7, 5, 2, 2, 1)
    """
    caller = "move"
    latents = encode_as(caller, "x", flow, x)
    direction = as_latents(caller, "direction", flow, direction)
    strength = jnp.asarray(strength, latents[0].dtype)
    moved = []
    for part, step, shape in zip(latents, direction, latent_shapes(flow), strict=True):
        batches = (strength.shape, batch_of(part, shape), batch_of(step, shape))
        what = "the shape of `strength` and the batch shapes of `x` and `direction`"
        broadcast(caller, what, *batches)
        moved.append(part + strength.reshape(*strength.shape, *[1] * len(shape)) * step)
    return flow.bijector(join(flow, moved))


def _mean_latents(caller: str, argument: str, flow: Flow, x: Any) -> list[Array]:
    latents, shapes = encode_as(caller, argument, flow, x), latent_shapes(flow)
    if latents[0].size == 0:
        raise ValueError(
            f"{caller}: `{argument}` must hold at least one image, got shape {jnp.shape(x)}"
        )
    pairs = zip(latents, shapes, strict=True)
    return [part.mean(tuple(range(part.ndim - len(shape)))) for part, shape in pairs]


def _scales(caller: str, scales: Sequence[int] | None, num_scales: int) -> set[int]:
    """Scales counted from the finest one."""
    if scales is None:
        return set(range(num_scales))
    given = _check.integers(caller, "scales", scales)
    if not all(-num_scales <= i < num_scales for i in given):
        raise ValueError(
            f"{caller}: `scales` must be from {-num_scales} to {num_scales - 1}, got {given}"
        )
    return {i % num_scales for i in given}


def _great_circle(a: Array, b: Array, t: Array, event_ndims: int) -> Array:
    """Between vectors that are the last ``event_ndims`` axes of ``a`` and ``b``."""
    axes = tuple(range(-event_ndims, 0))
    (a, norm_a), (b, norm_b) = _unit(a, axes), _unit(b, axes)
    # Kept off the ends, where the derivative of the angle is infinite.
    most = 1 - 4 * float(jnp.finfo(a.dtype).eps)
    angle = jnp.arccos(jnp.clip((a * b).sum(axes, keepdims=True), -most, most)) / math.pi

    def weight(part: Array) -> Array:  # sin(part * angle) / sin(angle), for small angles too
        return part * jnp.sinc(part * angle) / jnp.sinc(angle)

    return ((1 - t) * norm_a + t * norm_b) * (weight(1 - t) * a + weight(t) * b)


def _unit(value: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Direction and norm; both zero, and so are their derivatives, for a zero vector."""
    square = jnp.square(value).sum(axes, keepdims=True)
    norm = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return value / norm, jnp.where(square > 0, norm, 0.0)
