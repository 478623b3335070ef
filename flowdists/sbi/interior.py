"""Draws that rounding has put on the bound of their support."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import biject_to

Array = jax.Array


def into_interior(support: Any, value: Array) -> Array:
    """``value``; or, if it lies on the bound of ``support``, its neighbour inside.

    A sampler rounds: ``Uniform(2000.0, 2010.0)`` draws each of its bounds about once in 100,000
    times, and there the map to unbounded space is infinite. Such a value moves towards the image of
    the origin: from the end of a half-line by one float; in any other set by its rounding error
    relative to the set's size, which is how finely draws are spaced there, and at least one float.

    Args:
      support: a NumPyro constraint with a map onto it.
      value: one value of a site. What is NaN, infinite, or outside of the support remains so.
    """
    onto = biject_to(support)
    unbounded = onto.inv(value)
    centre = onto(jnp.zeros_like(unbounded))
    limits = jnp.finfo(value.dtype)
    is_half_line = support(jnp.full_like(value, limits.max)).all()
    step = jnp.where(is_half_line, limits.tiny, 2 * limits.eps * jnp.abs(centre - value))
    moved = value + jnp.sign(centre - value) * step
    moved = jnp.where(moved == value, jnp.nextafter(value, centre), moved)
    on_bound = jnp.isfinite(value).all() & ~jnp.isfinite(unbounded).all()
    return jnp.where(on_bound, moved, value)
