"""How a layer calls its conditioner: any callable pytree will do."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from flowdists._pytree import Partitioned, is_float_array
from flowdists.networks.base import Array, Network


class ForeignConditioner(Network):
    """A callable pytree of somebody else's (an Equinox module, a closure over nothing).

    It maps one vector, the features followed by the context, to one vector, and is vmapped over the
    batch. Its float arrays are parameters; everything else in it is configuration.

    Args:
      function: the callable pytree.
    """

    wrapped: Partitioned

    def __init__(self, function: Any) -> None:
        self.wrapped = Partitioned(function, is_float_array)

    def __call__(self, x: Array, context: Array | None = None) -> Array:
        function = self.wrapped.merge()
        if context is not None:
            batch = x.shape[:-1]
            x = jnp.concatenate(
                [x, jnp.broadcast_to(context, (*batch, context.shape[-1]))], axis=-1
            )
        flat = jax.vmap(function)(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
        return flat.reshape(*x.shape[:-1], flat.shape[-1])


def as_conditioner(
    caller: str, function: Any, in_size: int, out_size: int, context_size: int
) -> Any:
    """``function`` as a network ``(x, context) -> parameters``, its sizes checked by a dry run.

    Raises:
      TypeError: if it is not callable.
      ValueError: if it does not map ``in_size`` (and the context) to ``out_size`` numbers.
    """
    if not callable(function):
        raise TypeError(
            f"{caller}: `conditioner` must be a callable pytree, got {type(function).__name__}"
        )
    network: Any = function if isinstance(function, Network) else ForeignConditioner(function)
    inputs = jax.ShapeDtypeStruct((1, in_size), jnp.result_type(float))
    context = jax.ShapeDtypeStruct((1, context_size), inputs.dtype) if context_size else None
    wanted = f"map {in_size + context_size} features to {out_size}"
    try:
        shape = jax.eval_shape(lambda x, c: network(x, c), inputs, context).shape
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{caller}: `conditioner` must {wanted}; calling it failed") from error
    if shape != (1, out_size):
        raise ValueError(f"{caller}: `conditioner` must {wanted}, got {math.prod(shape)}")
    return network


def flatten_context(context: Array | None, context_shape: tuple[int, ...] | None) -> Array | None:
    """Contexts of any shape as vectors, ``(*batch, size)``."""
    if context is None or context_shape is None:
        return None
    batch = context.shape[: context.ndim - len(context_shape)]
    return context.reshape(*batch, math.prod(context_shape))
