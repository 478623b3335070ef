"""Interpolation between images, and attributes of images, in latent space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from flowdists import _check
from flowdists._events import batch_of
from flowdists.bijectors.base import Array
from flowdists.flow import Flow
from flowdists.images import check
from flowdists.images.latents import center, encode_as, join, latent_shapes, split


def interpolate(
    flow: Flow,
    x_a: Any,
    x_b: Any,
    num_steps: int,
    *,
    scales: Sequence[int] | None = None,
    spherical: bool = False,
) -> Array:
    """Images on a path from ``x_a`` to ``x_b``, at equal steps in latent space.

    A straight line between two draws from a normal distribution in many dimensions passes closer to
    the mean than draws do. Half-way the distance is 0.71 of theirs, and images look like draws at a
    temperature of 0.71. The spherical path keeps the distance (White 2016,
    https://arxiv.org/abs/1609.04468). In every scale, about the location of the base, the direction
    follows a great circle at constant speed, while the norm changes linearly. Between latents on
    opposite sides the great circle is not unique, and the path leads through the location.

    Args:
      flow: the density of images.
      x_a: the images at the start, ``(*batch, *event_shape)``.
      x_b: the images at the end; the shapes broadcast.
      num_steps: the number of images, at least 2, both ends included.
      scales: the scales that change, 0 for the finest and -1 for the coarsest; all unless given.
        The others stay those of ``x_a``.
      spherical: whether to follow great circles.

    Returns:
      Images, ``(num_steps, *batch, *event_shape)``. Up to rounding, the first is ``x_a``, and the
      last is ``x_b`` if all scales change.

    Raises:
      TypeError: as :func:`encode`; or if ``spherical`` is true and the base has no location.
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
    check.broadcast(caller, "the shapes of `x_a` and `x_b`", jnp.shape(x_a), jnp.shape(x_b))
    num_steps = _check.positive_int(caller, "num_steps", num_steps, minimum=2)
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
    """The direction in latent space from images without an attribute to images with it.

    It is the difference of the mean latents (Kingma & Dhariwal 2018,
    https://arxiv.org/abs/1807.03039). :func:`move` moves images along it.

    Args:
      flow: the density of images.
      x_with: images that have the attribute, ``(*batch, *event_shape)``.
      x_without: images that do not have it, of any other batch shape.

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
    mean_with = _mean_latents(caller, "x_with", flow, x_with)
    mean_without = _mean_latents(caller, "x_without", flow, x_without)
    return tuple(a - b for a, b in zip(mean_with, mean_without, strict=True))


def move(flow: Flow, x: Any, direction: Sequence[Any], strength: Any) -> Array:
    """Move images along a direction in latent space.

    Args:
      flow: the density of images.
      x: images, ``(*batch, *event_shape)``.
      direction: an array for each scale, as from :func:`attribute_direction`.
      strength: how far, in units of ``direction``: a number, or an array that broadcasts with
        ``batch``. For example, an array of shape ``(n, 1)`` gives ``n`` versions of a batch.

    Returns:
      Images, ``(*batch, *event_shape)``.

    Raises:
      TypeError: as :func:`encode`.
      ValueError: as :func:`encode`; or if the shape of the direction or strength does not fit.

    >>> from flowdists.images import move
    >>> flow = Flow(StandardNormal((2, 2, 1)), Reverse((2, 2, 1)))  # a single scale
    >>> strength = jnp.linspace(-1.0, 1.0, 7)[:, None]
    >>> move(flow, jnp.zeros((5, 2, 2, 1)), [jnp.ones((2, 2, 1))], strength).shape
    (7, 5, 2, 2, 1)
    """
    caller = "move"
    latents = encode_as(caller, "x", flow, x)
    shapes = latent_shapes(flow)
    direction = check.latents(caller, "direction", direction, shapes)
    strength = jnp.asarray(strength, latents[0].dtype)
    moved = []
    for piece, step, shape in zip(latents, direction, shapes, strict=True):
        batches = (strength.shape, batch_of(piece, shape), batch_of(step, shape))
        what = "the shape of `strength` and the batch shapes of `x` and `direction`"
        check.broadcast(caller, what, *batches)
        moved.append(piece + strength.reshape(*strength.shape, *[1] * len(shape)) * step)
    return flow.bijector(join(flow, moved))


def _mean_latents(caller: str, argument: str, flow: Flow, x: Any) -> list[Array]:
    """The mean over all images, for each scale."""
    latents = encode_as(caller, argument, flow, x)
    if latents[0].size == 0:
        raise ValueError(
            f"{caller}: `{argument}` must hold at least one image, got shape {jnp.shape(x)}"
        )
    pairs = zip(latents, latent_shapes(flow), strict=True)
    return [piece.reshape(-1, *shape).mean(0) for piece, shape in pairs]


def _scales(caller: str, scales: Sequence[int] | None, num_scales: int) -> set[int]:
    """The given scales, counted from the finest one; all if none are given."""
    if scales is None:
        return set(range(num_scales))
    given = _check.integers(caller, "scales", scales)
    if not all(-num_scales <= i < num_scales for i in given):
        raise ValueError(
            f"{caller}: `scales` must be from {-num_scales} to {num_scales - 1}, got {given}"
        )
    return {i % num_scales for i in given}


def _great_circle(a: Array, b: Array, t: Array, event_ndims: int) -> Array:
    """The spherical path from ``a`` to ``b``, whose last ``event_ndims`` axes are one vector."""
    axes = tuple(range(-event_ndims, 0))
    (a, norm_a), (b, norm_b) = _unit(a, axes), _unit(b, axes)
    # At -1 and 1 the derivative of the angle is infinite.
    limit = 1 - 4 * float(jnp.finfo(a.dtype).eps)
    angle = jnp.arccos(jnp.clip((a * b).sum(axes, keepdims=True), -limit, limit)) / math.pi

    def weight(t: Array) -> Array:
        """``sin(t * pi * angle) / sin(pi * angle)``, also for small angles."""
        return t * jnp.sinc(t * angle) / jnp.sinc(angle)

    return ((1 - t) * norm_a + t * norm_b) * (weight(1 - t) * a + weight(t) * b)


def _unit(value: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Direction and norm. For a zero vector both are zero, and so are their derivatives."""
    square = jnp.square(value).sum(axes, keepdims=True)
    norm = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return value / norm, jnp.where(square > 0, norm, 0.0)
