"""Values by site of a model, and the same values as one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowdists.bijectors._events import split_vector

Array = jax.Array
Shape = tuple[int, ...]
Values = dict[str, Array]


class Sites(NamedTuple):
    """Where the values of sites lie in one vector.

    Attributes:
      what: what these sites are, for error messages.
      names: the sites, in the order of the vector.
      shapes: the shape of each site's value.
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
        """The shape of all there is: that of the only site, or of the vector."""
        return self.shapes[0] if len(self.shapes) == 1 else (self.size,)

    def pack(self, caller: str, values: Any) -> Array:
        """The vectors ``(*batch, size)`` of values ``(*batch, *shape)`` by site.

        Args:
          caller: what to call the caller in an error message.
          values: a dict; of an only site, the value itself will do. Other entries are ignored.

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
        parts = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            value = jnp.asarray(values[name])
            cut = value.ndim - len(shape)
            if cut < 0 or value.shape[cut:] != shape:
                wanted = ", ".join(["*batch", *map(str, shape)])
                raise ValueError(
                    f"{caller}: {self.what} {name!r} has shape {value.shape}, expected ({wanted})"
                )
            flat = value.reshape(*value.shape[:cut], math.prod(shape))
            parts.append(flat.astype(jnp.result_type(float)))
        batch = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return jnp.concatenate([jnp.broadcast_to(p, (*batch, p.shape[-1])) for p in parts], axis=-1)

    def unpack(self, vector: Array) -> Values:
        """The inverse of :meth:`pack`: values by site."""
        return dict(zip(self.names, split_vector(vector, self.shapes), strict=True))
