"""The values of a model's sites as one vector, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from flowdists._events import join_vector, split_vector
from flowdists._model_sites import Array, Shape, Values


class Sites(NamedTuple):
    """Where the values of sites lie in one vector.

    Attributes:
      what: what these sites are, for error messages.
      names: the sites, in the order of the vector.
      shapes: the shape of the value of each site.
    """

    what: str
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(map(math.prod, self.shapes))

    @property
    def shape(self) -> Shape:
        """The shape of the value if there is only one site, otherwise of the vector."""
        return self.shapes[0] if len(self.shapes) == 1 else (self.size,)

    def pack(self, caller: str, values: Any) -> Array:
        """The vectors ``(*batch, size)`` of values ``(*batch, *shape)`` by site.

        Args:
          caller: name of the caller, for error messages.
          values: a dict, whose other entries are ignored; or the value itself, if there is only
            one site.

        Raises:
          ValueError: if a site is missing, or a value has another shape.
        """
        if not isinstance(values, Mapping):
            if len(self.names) != 1:
                raise ValueError(
                    f"{caller}: {self.what} must be a dict with the sites {self.names}, got "
                    f"{type(values).__name__}"
                )
            values = {self.names[0]: values}
        missing = [name for name in self.names if name not in values]
        if missing:
            raise ValueError(
                f"{caller}: {self.what} must have the sites {self.names}, but {missing} are missing"
            )
        pieces = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            value = jnp.asarray(values[name], jnp.result_type(float))
            batch_ndim = value.ndim - len(shape)
            if batch_ndim < 0 or value.shape[batch_ndim:] != shape:
                wanted = ", ".join(["*batch", *map(str, shape)])
                raise ValueError(
                    f"{caller}: {self.what} {name!r} has shape {value.shape}, expected ({wanted})"
                )
            pieces.append(value)
        return join_vector(pieces, self.shapes)

    def unpack(self, vector: Array) -> Values:
        """The inverse of :meth:`pack`: values by site."""
        return dict(zip(self.names, split_vector(vector, self.shapes), strict=True))
