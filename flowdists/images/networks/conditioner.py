"""How a layer on images calls its conditioner: any callable pytree will do."""

from __future__ import annotations

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp

from flowdists.networks.base import Array, Network
from flowdists.networks.conditioner import ForeignConditioner


class ForeignImageConditioner(ForeignConditioner):
    """A callable pytree of somebody else's, from one image to one image of the same size.

    The context is appended to the channels.
    """

    def __call__(self, x: Array, context: Array | None = None) -> Array:
        if context is not None:
            spread = jnp.broadcast_to(
                context[..., None, None, :], (*x.shape[:-1], context.shape[-1])
            )
            x = jnp.concatenate([x, spread], axis=-1)
        batch, image = x.shape[:-3], x.shape[-3:]
        out = jax.vmap(self.wrapped.merge())(x.reshape(math.prod(batch), *image))
        return out.reshape(*batch, *out.shape[1:])


def as_image_conditioner(
    caller: str, function: Any, in_shape: tuple[int, ...], out_channels: int, context_size: int
) -> Any:
    """``function`` as a network ``(x, context) -> parameters``, its sizes checked by a dry run.

    Args:
      caller: the name of the layer, for error messages.
      function: a network of ours that takes contexts, or a callable pytree.
      in_shape: ``(H, W, in)``.
      out_channels: channels of the result, of the same height and width.
      context_size: length of the context vector, 0 for none.

    Raises:
      TypeError: if it is not callable.
      ValueError: if it does not map the one shape to the other.
    """
    if not callable(function):
        raise TypeError(
            f"{caller}: `conditioner` must be a callable pytree, got {type(function).__name__}"
        )
    network: Any = function if _adds_context(function) else ForeignImageConditioner(function)
    *size, channels = in_shape
    # As many images as no row has pixels: a network of vectors would take contexts for pixels.
    batch = size[1] + 1
    x = jax.ShapeDtypeStruct((batch, *in_shape), jnp.result_type(float))
    context = jax.ShapeDtypeStruct((batch, context_size), x.dtype) if context_size else None
    expected = (batch, *size, out_channels)
    with_context = f", {context_size} more of the context" if context_size else ""
    wanted = f"map images of {channels} channels{with_context} to {out_channels} channels"
    try:
        shape = jax.eval_shape(lambda x, c: network(x, c), x, context).shape
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{caller}: `conditioner` must {wanted}; calling it failed") from error
    if shape != expected:
        raise ValueError(
            f"{caller}: `conditioner` must {wanted}, got images of shape {shape[1:]}, expected "
            f"{expected[1:]}"
        )
    return network


def _adds_context(function: Any) -> bool:
    """Whether it is a network of ours that takes contexts; some, such as ``Conv``, do not."""
    call: Any = function
    return isinstance(function, Network) and "context" in inspect.signature(call).parameters
