"""Any callable pytree as the conditioner of a layer."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flowdists._pytree import Partitioned, is_float_array, static
from flowdists.networks.base import Array, Network

Shape = tuple[int, ...]


class ForeignConditioner(Network):
    """A callable pytree of another library (an Equinox module), or a function without parameters.

    It maps one array to one array, with the context appended to the last axis, and is vmapped over
    the batch. Its float arrays are parameters; everything else in it is configuration.

    Args:
      function: the callable pytree.
      ndims: number of axes of its input: 1 for a vector, 3 for an image.
    """

    wrapped: Partitioned
    ndims: int = static()

    def __init__(self, function: Any, ndims: int) -> None:
        self.wrapped = Partitioned(function, is_float_array)
        self.ndims = ndims

    def __call__(self, x: Array, context: Array | None = None) -> Array:
        if context is not None:
            context = jnp.expand_dims(context, tuple(range(-self.ndims, -1)))
            context = jnp.broadcast_to(context, (*x.shape[:-1], context.shape[-1]))
            x = jnp.concatenate([x, context], axis=-1)
        return over_batch(self.wrapped.merge(), x, self.ndims)


def as_conditioner(
    caller: str, function: Any, in_shape: Shape, out_size: int, num_context: int
) -> Any:
    """``function`` as a network ``(x, context) -> parameters``, with sizes checked by a dry run.

    Args:
      caller: name of the layer, for error messages.
      function: a network of ours that takes contexts, or a callable pytree.
      in_shape: shape of one input: ``(in_size,)``, or ``(H, W, channels)``.
      out_size: the last axis of the output; the other axes are those of the input.
      num_context: length of the context vector, 0 for none.

    Raises:
      TypeError: if it is not callable.
      ValueError: if it does not map inputs of the given shape to outputs of the right one.
    """
    check_callable(caller, "conditioner", function)
    is_ours = isinstance(function, Network)
    takes_contexts = is_ours and "context" in inspect.signature(function.__call__).parameters
    network: Any = function if takes_contexts else ForeignConditioner(function, len(in_shape))
    # The batch size differs from the pixels in a row. Otherwise contexts, which have no axes for
    # pixels, could broadcast along a row in a network of vectors.
    batch = 1 + math.prod(in_shape[-2:-1])
    *rest, in_size = in_shape
    given = f"{(*rest, in_size + num_context)}{', context included,' if num_context else ''}"
    wanted = f"map arrays of shape {given} to {(*rest, out_size)}"
    context = jax.ShapeDtypeStruct((batch, num_context), float) if num_context else None
    output = dry_run(f"{caller}: `conditioner` must {wanted}", network, (batch, *in_shape), context)
    if output.shape != (batch, *rest, out_size):
        raise ValueError(f"{caller}: `conditioner` must {wanted}, got {output.shape[1:]}")
    return network


def check_callable(caller: str, argument: str, function: Any) -> None:
    """Check that ``function`` can be called.

    Raises:
      TypeError: if it cannot.
    """
    if not callable(function):
        raise TypeError(
            f"{caller}: `{argument}` must be a callable pytree, got {type(function).__name__}"
        )


def dry_run(wanted: str, function: Callable[..., Any], shape: Shape, *others: Any) -> Any:
    """The shape and dtype of ``function``'s output, found without computing anything.

    Args:
      wanted: what the function must do, for the error message.
      function: a network.
      shape: shape of its first argument.
      others: its other arguments, as :func:`jax.eval_shape` takes them.

    Raises:
      ValueError: if calling it fails.
    """
    first = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    others = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, first.dtype), others)
    try:
        return jax.eval_shape(lambda *args: function(*args), first, *others)
    except (AttributeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{wanted}; calling it failed: {reason}") from error


def over_batch(function: Callable[[Array], Array], x: Array, ndims: int) -> Array:
    """Apply ``function``, of arrays with ``ndims`` axes, to each one in a batch of any shape."""
    batch = x.shape[: x.ndim - ndims]
    out = jax.vmap(function)(x.reshape(math.prod(batch), *x.shape[len(batch) :]))
    return out.reshape(*batch, *out.shape[1:])


def context_size(context_shape: Shape | None) -> int:
    """The length of a context as a vector; 0 without a context."""
    return 0 if context_shape is None else math.prod(context_shape)


def flatten_context(context: Array | None, context_shape: Shape | None) -> Array | None:
    """Contexts of any shape as vectors, ``(*batch, size)``."""
    if context is None or context_shape is None:
        return None
    batch = context.shape[: context.ndim - len(context_shape)]
    return context.reshape(*batch, math.prod(context_shape))
