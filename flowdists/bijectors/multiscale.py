"""Several scales of an image, of which each but the coarsest factors out half of its channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from flowdists._compensated import Compensated, compensated, rounded
from flowdists.bijectors._channels import join_channels, split_channels
from flowdists.bijectors._events import batch_of
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.bijectors.chain import Chain
from flowdists.bijectors.conditioned import Conditioned
from flowdists.bijectors.embedded import Embedded
from flowdists.bijectors.foreign import as_bijector


class MultiScale(Bijector):
    """The multi-scale architecture (Dinh et al. 2017): flat latents to an image.

    ``inverse`` takes an image through the first scale, sets the second half of the resulting
    channels aside as latents, takes the first half through the next scale, and so on; the last
    scale's result is latent as a whole. ``forward`` goes back. The flat latent vector holds the
    latents of the finest scale first; :meth:`pyramid` cuts it into scales, :meth:`flatten` joins
    them.

    Args:
      scales: bijectors on images, the finest first. Each but the first takes, as its data, the
        first half of the channels that the one before has at its base.

    Raises:
      TypeError: if a scale is no bijector.
      ValueError: if there is none, or the shapes or contexts of neighbours do not fit.

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
        shapes = {s.context_shape for s in self.scales if s.context_shape is not None}
        if len(shapes) > 1:
            raise ValueError(
                f"MultiScale: `scales` must agree on one context shape, got {sorted(shapes)}"
            )
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
        return next((s.context_shape for s in self.scales if s.context_shape is not None), None)

    @property
    def cheap_direction(self) -> Direction:
        return "inverse" if any(s.cheap_direction == "inverse" for s in self.scales) else "forward"

    def pyramid(self, z: Array) -> tuple[Array, ...]:
        """Flat latents ``(*batch, D)`` as images ``(*batch, *shape)``, the finest scale first."""
        parts, start = [], 0
        for shape in self.latent_shapes:
            stop = start + math.prod(shape)
            parts.append(z[..., start:stop].reshape(*z.shape[:-1], *shape))
            start = stop
        return tuple(parts)

    def flatten(self, latents: Sequence[Array]) -> Array:
        """The inverse of :meth:`pyramid`.

        Raises:
          ValueError: if there are not as many latents as scales, or one has another shape.
        """
        if len(latents) != len(self.scales):
            raise ValueError(
                f"MultiScale.flatten: `latents` must hold {len(self.scales)} arrays, one for each "
                f"scale, got {len(latents)}"
            )
        flat = []
        for i, (part, shape) in enumerate(zip(latents, self.latent_shapes, strict=True)):
            if part.shape[max(part.ndim - 3, 0) :] != shape:
                wanted = ", ".join(map(str, shape))
                raise ValueError(
                    f"MultiScale.flatten: `latents[{i}]` has shape {part.shape}, expected "
                    f"(*batch, {wanted})"
                )
            flat.append(part.reshape(*batch_of(part, shape), math.prod(shape)))
        return jnp.concatenate(flat, axis=-1)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        image, log_det = self._to_image([compensated(z) for z in self.pyramid(x)], context)
        return rounded(image), log_det

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        latents, log_det = self._to_latents(compensated(y), context)
        return self.flatten([rounded(z) for z in latents]), log_det

    def _to_image(
        self, latents: Sequence[Compensated], context: Array | None
    ) -> tuple[Compensated, Array]:
        """From the latents of all scales, with their rounding errors, to the image."""
        *finer, value = latents
        total: Any = 0.0
        for i in reversed(range(len(self.scales))):
            if i < len(finer):
                value = join_channels(value, finer[i])
            value, log_det = _run("forward", self.scales[i], value, context)
            total = total + log_det
        return value, total

    def _to_latents(
        self, value: Compensated, context: Array | None
    ) -> tuple[list[Compensated], Array]:
        """From an image to the latents of all scales, with their rounding errors."""
        latents: list[Compensated] = []
        total: Any = 0.0
        for scale in self.scales:
            value, log_det = _run("inverse", scale, value, context)
            total = total + log_det
            value = self._set_aside(value, latents)
        return latents, total

    def _set_aside(self, value: Any, latents: list[Any]) -> Any:
        """Append what a scale leaves at its base to ``latents``, and return what goes on."""
        if len(latents) == len(self.scales) - 1:
            latents.append(value)
            return value
        kept, factored = split_channels(value, value.shape[-1] // 2)
        latents.append(factored)
        return kept

    def data_init(
        self, value: Array, context: Array | None = None, direction: Direction = "inverse"
    ) -> tuple[Bijector, Array]:
        scales: list[Bijector] = []
        if direction == "inverse":
            latents: list[Array] = []
            for scale in self.scales:
                scale, value = scale.data_init(value, _own(scale, context), direction)
                scales.append(scale)
                value = self._set_aside(value, latents)
            return MultiScale(scales), self.flatten(latents)
        *finer, value = self.pyramid(value)
        for i in reversed(range(len(self.scales))):
            if i < len(finer):
                value = join_channels(value, finer[i])
            own_context = _own(self.scales[i], context)
            scale, value = self.scales[i].data_init(value, own_context, direction)
            scales.append(scale)
        return MultiScale(scales[::-1]), value


def _run(direction: Direction, scale: Bijector, value: Any, context: Array | None) -> Any:
    return getattr(scale, f"{direction}_and_log_det")(value, _own(scale, context))


def _own(scale: Bijector, context: Array | None) -> Array | None:
    return None if scale.context_shape is None else context


def multi_scale(bijector: Bijector) -> MultiScale | None:
    """The layer that cuts the base's values into scales, if ``bijector`` has one at its base."""
    if isinstance(bijector, Chain):
        return multi_scale(bijector.layers[0])
    if isinstance(bijector, Conditioned | Embedded):
        return multi_scale(bijector.bijector)
    return bijector if isinstance(bijector, MultiScale) else None
