"""Images cut and joined along their channels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flowdists._compensated import Value


def split_channels(value: Value, size: int) -> tuple[Any, Any]:
    """The first ``size`` channels, and the others."""
    first = jax.tree.map(lambda part: part[..., :size], value)
    return first, jax.tree.map(lambda part: part[..., size:], value)


def join_channels(first: Value, second: Value) -> Any:
    """The inverse of :func:`split_channels`."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), first, second)
