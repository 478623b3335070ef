"""The density of an amortized guide: a flow of global variables, one of each datum's own."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowdists._pytree import is_float_array
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow

Array = jax.Array


class AmortizedPosterior(NamedTuple):
    """The parts of an amortized guide.

    Attributes:
      encoder: the network, which takes one row of the features.
      local_flow: the flow of a datum's latent variables. Its last layer is a shift and scale.
      global_flow: the flow of the global ones, with the same kind of last layer; None if there
        are none.
      sees_global: whether the global ones are part of the local flow's context.
    """

    encoder: Any
    local_flow: ConditionalFlow
    global_flow: Flow | None
    sees_global: bool

    def context(self, rows: Array, global_latent: Array | None) -> Array:
        """The local flow's context.

        Args:
          rows: features, ``(rows, ...)``.
          global_latent: the global latent variables, unconstrained, ``(*batch, size)``.

        Returns:
          ``(*batch, context_size)``, where ``batch`` is broadcast with ``(rows,)``.
        """
        # A network's output often starts at zero. A flow on one dimension sees nothing else, and
        # with an input of zero neither of the two would ever get a gradient.
        context = 1.0 + encode(self.encoder, rows)
        if not self.sees_global or self.global_flow is None:
            return context
        # In units of the last layer, which follow the posterior as it narrows.
        units = self.global_flow.bijector.layers[-1]
        standardized = units.inverse(global_latent)
        batch = jnp.broadcast_shapes(context.shape[:-1], standardized.shape[:-1])
        parts = [jnp.broadcast_to(x, (*batch, x.shape[-1])) for x in (context, standardized)]
        return jnp.concatenate(parts, axis=-1)


def as_rows(value: Any) -> Array:
    """Features as ``(rows, ...)``, with at least one axis for what is in a row."""
    rows = jnp.asarray(value)
    if rows.ndim == 0:
        raise ValueError(
            "AutoAmortizedFlow: the features must be an array with a row for each datum, got the "
            f"number {value}"
        )
    return rows[:, None] if rows.ndim == 1 else rows


def encode(encoder: Any, rows: Array) -> Array:
    """The encoder's output for each of the rows, ``(rows, size)``."""
    wanted = f"AutoAmortizedFlow: `encoder` must map a row of shape {rows.shape[1:]} to a vector"
    try:
        output = jax.vmap(encoder)(rows)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{wanted} of floats; calling it failed") from error
    if not is_float_array(output) or output.ndim != 2:
        given = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[1:])}", output)
        raise ValueError(f"{wanted} of floats, got {given}")
    return output
