"""Conversion of a user's argument to a base distribution, and of a base to distrax."""

from __future__ import annotations

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from flowdists.bases.standard import StandardNormal, broadcasts_to

Array = jax.Array
Shape = tuple[int, ...]


def make_base(caller: str, base: Any, event_shape: Shape) -> dist.Distribution:
    """Turn a recipe's ``base`` into a distribution over events of ``event_shape``.

    Args:
      caller: name of the recipe, for error messages.
      base: None for a standard normal; or a NumPyro distribution with this ``event_shape``, or
        whose batch and event shape together broadcast to it (a scalar one, for example).
      event_shape: shape of one event.

    Raises:
      TypeError: if ``base`` is not a NumPyro distribution.
      ValueError: if its shape does not fit.
    """
    if base is None:
        return StandardNormal(event_shape)
    if not isinstance(base, dist.Distribution):
        raise TypeError(
            f"{caller}: `base` must be a numpyro distribution or None, got {type(base).__name__}"
        )
    if base.event_shape == event_shape:
        return base
    if not broadcasts_to(base.shape(), event_shape):
        raise ValueError(
            f"{caller}: `base` must have events of shape {event_shape}, got batch shape "
            f"{base.batch_shape} and event shape {base.event_shape}"
        )
    batch_shape = event_shape[: len(event_shape) - base.event_dim]
    return base.expand(batch_shape).to_event(len(batch_shape))


def as_distrax(base: dist.Distribution) -> distrax.Distribution:
    """``base`` as a distrax distribution with the same batch shape.

    distrax samples the base with the base's own batch shape, which must be that of the flow.
    """
    if isinstance(base, StandardNormal):
        shape = base.shape()
        normal = distrax.Normal(jnp.zeros(shape), jnp.ones(shape))
        return distrax.Independent(normal, base.event_dim)
    return DistraxBase(base)


class DistraxBase(distrax.Distribution):
    """A NumPyro distribution in distrax's interface, as the base of a ``distrax.Transformed``."""

    def __init__(self, base: dist.Distribution) -> None:
        self._base = base

    @property
    def event_shape(self) -> Shape:
        return self._base.event_shape

    @property
    def batch_shape(self) -> Shape:
        return self._base.batch_shape

    def _sample_n(self, key: Array, n: int) -> Array:
        return self._base.sample(key, (n,))

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats."""
        return self._base.log_prob(value)
