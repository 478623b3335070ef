"""Several scales of an image. Each but the coarsest sets half of its channels aside as latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from flowdists._events import join_vector, split_vector
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.bijectors.compose.chain import as_bijector, common_context_shape
from flowdists.images import check


class MultiScale(Bijector):
    """The multi-scale architecture of Dinh et al. 2017 (https://arxiv.org/abs/1605.08803).

    It maps a vector of latents to an image. ``inverse`` takes an image through the first scale,
    sets the second half of the resulting channels aside as latents, takes the first half through
    the next scale, and so on. The whole result of the last scale is latent. ``forward`` goes back.
    The vector holds the latents of the finest scale first: :meth:`pyramid` cuts it into scales, and
    :meth:`flatten` joins them.

    Args:
      scales: bijectors on images, the finest first. The data side of each but the first is the
        first half of the channels that the scale before it has on its base side.

    Raises:
      TypeError: if a scale is not a bijector.
      ValueError: if there is no scale, or if the shapes or contexts of neighbours do not fit.

    >>> layer = MultiScale([Inverse(Squeeze((8, 8, 1))), Inverse(Squeeze((4, 4, 2)))])
    >>> z = layer.inverse(jnp.ones((5, 8, 8, 1)))
    >>> z.shape, [latents.shape for latents in layer.pyramid(z)]
    ((5, 64), [(5, 4, 4, 2), (5, 2, 2, 8)])
    """

    scales: tuple[Bijector, ...]

    def __init__(self, scales: Sequence[Any]) -> None:
        self.scales = tuple(as_bijector(scale) for scale in scales)
        if not self.scales:
            raise ValueError("MultiScale: `scales` must hold at least one scale, got none")
        common_context_shape("MultiScale", "scales", self.scales)
        given: Shape | None = None
        for i, scale in enumerate(self.scales):
            if given is not None and scale.event_shape_out != given:
                raise ValueError(
                    f"MultiScale: `scales[{i}]` takes images of shape {scale.event_shape_out}, but "
                    f"receives {given}"
                )
            *size, channels = scale.event_shape
            if channels < 2 and i < len(self.scales) - 1:
                raise ValueError(
                    f"MultiScale: `scales[{i}]` must have at least 2 channels at its base, to set "
                    f"half of them aside, got {scale.event_shape}"
                )
            given = (*size, channels // 2)

    @property
    def latent_shapes(self) -> tuple[Shape, ...]:
        """The shapes of one image's latents, scale by scale, the finest first."""
        shapes = [scale.event_shape for scale in self.scales]
        halves = [(*size, channels - channels // 2) for *size, channels in shapes[:-1]]
        return (*halves, shapes[-1])

    @property
    def event_shape(self) -> Shape:
        return (sum(math.prod(shape) for shape in self.latent_shapes),)

    @property
    def event_shape_out(self) -> Shape:
        return self.scales[0].event_shape_out

    @property
    def context_shape(self) -> Shape | None:
        return common_context_shape("MultiScale", "scales", self.scales)

    @property
    def cheap_direction(self) -> Direction:
        return "inverse" if any(s.cheap_direction == "inverse" for s in self.scales) else "forward"

    def check_data(self, caller: str, argument: str, value: Any) -> None:
        """Pixels are continuous: no integers, no NaN, no levels cast to floats."""
        check.pixels(caller, argument, value)

    def pyramid(self, z: Array) -> tuple[Array, ...]:
        """Flat latents ``(*batch, D)`` as images ``(*batch, *shape)``, the finest scale first."""
        return split_vector(z, self.latent_shapes)

    def flatten(self, latents: Sequence[Array]) -> Array:
        """The inverse of :meth:`pyramid`.

        Raises:
          TypeError: if latents are not floating point.
          ValueError: if the number of latents is not that of scales, or if one has another shape.
        """
        shapes = self.latent_shapes
        return join_vector(check.latents("MultiScale.flatten", "latents", latents, shapes), shapes)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._run("forward", x, context)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._run("inverse", y, context)

    def _run(
        self, direction: Direction, value: Array, context: Array | None
    ) -> tuple[Array, Array]:
        log_dets = []

        def step(i: int, value: Array) -> Array:
            scale = self.scales[i]
            run = getattr(scale, f"{direction}_and_log_det")
            value, log_det = run(value, None if scale.context_shape is None else context)
            log_dets.append(log_det)
            return value

        return self._through_scales(direction, value, step), sum(log_dets[1:], log_dets[0])

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        scales = list(self.scales)

        def step(i: int, value: Array) -> Array:
            own_context = None if scales[i].context_shape is None else context
            scales[i], value = scales[i].data_init(value, own_context, direction)
            return value

        value = self._through_scales(direction, value, step)
        return MultiScale(scales), value

    def _through_scales(
        self, direction: Direction, value: Array, step: Callable[[int, Array], Array]
    ) -> Array:
        """Take a value from one side to the other, with ``step(i, value)`` for each scale."""
        coarsest = len(self.scales) - 1
        if direction == "inverse":
            latents = []
            for i in range(coarsest):
                *_, channels = self.scales[i].event_shape
                value, aside = jnp.split(step(i, value), [channels // 2], axis=-1)
                latents.append(aside)
            return join_vector([*latents, step(coarsest, value)], self.latent_shapes)
        *latents, value = self.pyramid(value)
        value = step(coarsest, value)
        for i in reversed(range(coarsest)):
            value = step(i, jnp.concatenate([value, latents[i]], axis=-1))
        return value
