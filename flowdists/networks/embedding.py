"""Any callable pytree as an embedding, which maps contexts of any shape to vectors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flowdists._pytree import Partitioned, is_float_array, static
from flowdists.networks.base import Array, Network
from flowdists.networks.conditioner import check_callable, dry_run, over_batch

Shape = tuple[int, ...]


class Embedding(Network):
    """A network of one context, applied to each context of a batch.

    Its float arrays are parameters; everything else in it is configuration. A network with a true
    attribute ``ends_in_mask`` uses the last channel of a context as a mask: above 0.5 where the
    other channels hold data.

    Args:
      caller: name of the caller, for error messages.
      function: any callable pytree that maps an array of ``context_shape`` to a vector of floats.
      context_shape: shape of one context.

    Raises:
      TypeError: if ``function`` is not callable.
      ValueError: if it does not map a context to a vector.
    """

    network: Any
    context_shape: Shape = static()
    ends_in_mask: bool = static()

    def __init__(self, caller: str, function: Any, context_shape: Shape) -> None:
        check_callable(caller, "embedding", function)
        is_ours = isinstance(function, Network)
        self.network = function if is_ours else Partitioned(function, is_float_array)
        self.context_shape = context_shape
        self.ends_in_mask = bool(getattr(function, "ends_in_mask", False))
        self.output_size(caller)

    def __call__(self, context: Array) -> Array:
        network = self.network.merge() if isinstance(self.network, Partitioned) else self.network
        return over_batch(network, context, len(self.context_shape))

    def output_size(self, caller: str) -> int:
        """The length of the vector, found without computing anything."""
        return vector_size(f"{caller}: `embedding`", self, self.context_shape)


def vector_size(what: str, function: Any, shape: Shape) -> int:
    """The length of the vectors to which ``function`` maps a batch of arrays of ``shape``.

    Args:
      what: name of the function, for error messages.
      function: a function of a batch ``(n, *shape)``.
      shape: shape of one array.

    Raises:
      ValueError: if it fails, or returns anything else.
    """
    wanted = f"{what} must map an array of shape {shape} to a vector of floats"
    output = dry_run(wanted, function, (1, *shape))
    is_array = isinstance(output, jax.ShapeDtypeStruct)
    if not is_array or len(output.shape) != 2 or not jnp.issubdtype(output.dtype, jnp.floating):
        got = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[1:])}", output)
        raise ValueError(f"{wanted}, got {got}")
    return int(output.shape[1])
