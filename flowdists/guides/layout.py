"""Where the latent variables of a model lie: inside of the plate of its data, or outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import helpful_support_errors

Array = jax.Array
Shape = tuple[int, ...]


class Layout(NamedTuple):
    """The latent sites of a model, unconstrained, inside and outside of a plate.

    Attributes:
      plate: name of the plate.
      dim: its batch dimension, counted from the right.
      size: of the whole plate.
      subsample_size: how many of its elements a run of the model has.
      global_shapes: shapes of the sites outside.
      local_shapes: shapes of the sites inside, for one element of the plate.
      local_axes: which axis of each site inside is the plate's, counted from the right.
    """

    plate: str
    dim: int
    size: int
    subsample_size: int
    global_shapes: dict[str, Shape]
    local_shapes: dict[str, Shape]
    local_axes: dict[str, int]

    @property
    def names(self) -> set[str]:
        """The latent sites."""
        return {*self.global_shapes, *self.local_shapes}

    @property
    def global_size(self) -> int:
        """Number of global unconstrained dimensions."""
        return _total(self.global_shapes)

    @property
    def local_size(self) -> int:
        """Number of unconstrained dimensions of one element of the plate."""
        return _total(self.local_shapes)

    def pack_globals(self, values: Mapping[str, Array]) -> Array:
        """The global sites' values as one vector."""
        return jnp.concatenate([jnp.ravel(values[name]) for name in self.global_shapes])

    def unpack_globals(self, vector: Array) -> dict[str, Array]:
        """The inverse of :meth:`pack_globals`."""
        return _split(vector, self.global_shapes)

    def pack_locals(self, values: Mapping[str, Array]) -> Array:
        """The local sites' values as one vector for each element of the plate, ``(rows, size)``."""
        rows = [jnp.moveaxis(values[name], axis, 0) for name, axis in self.local_axes.items()]
        return jnp.concatenate([row.reshape(row.shape[0], -1) for row in rows], axis=-1)

    def unpack_locals(self, matrix: Array) -> dict[str, Array]:
        """The inverse of :meth:`pack_locals`."""
        parts = _split(matrix, self.local_shapes)
        return {name: jnp.moveaxis(part, 0, self.local_axes[name]) for name, part in parts.items()}


def find_layout(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    plate: str | None = None,
    names: Collection[str] | None = None,
) -> Layout:
    """The layout of ``model`` for these arguments, found without computing anything.

    Args:
      model: a NumPyro model.
      args: its arguments.
      kwargs: its keyword arguments.
      plate: the plate; by default the only one with latent sites, or of several the only one
        that is subsampled.
      names: the latent sites, if they are known: others are then ignored, as those of data that
        are not given are.

    Raises:
      ValueError: if the plate is unknown, ambiguous or holds no latent site; if a latent site is
        discrete, or inside another plate that is subsampled.
    """
    plates: dict[str, tuple[int, int]] = {}
    latent: dict[str, Any] = {}

    def is_asked_for(name: str) -> bool:
        return names is None or name in names

    def run() -> None:
        with handlers.block():
            trace = handlers.trace(handlers.seed(model, rng_seed=0)).get_trace(*args, **kwargs)
        for name, site in trace.items():
            if site["type"] == "plate":
                size, subsample_size = site["args"]
                plates[name] = (size, size if subsample_size is None else subsample_size)
            elif site["type"] == "sample" and not site["is_observed"] and is_asked_for(name):
                latent[name] = _describe(site)

    jax.eval_shape(run)
    plate = _choose_plate(plates, latent, plate)
    dim = -1
    global_shapes, local_shapes, local_axes = {}, {}, {}
    for name, (shape, event_dim, frames) in latent.items():
        others = [f.name for f in frames if f.name != plate and len(set(plates[f.name])) > 1]
        if others:
            raise ValueError(
                f"AutoAmortizedFlow: latent site {name!r} is inside of {others[0]!r}, which is "
                f"subsampled, but only the plate of the data, {plate!r}, may be"
            )
        dims = [frame.dim for frame in frames if frame.name == plate]
        if dims:
            dim = dims[0]
            local_axes[name] = dim - event_dim
            axis = len(shape) + local_axes[name]
            local_shapes[name] = shape[:axis] + shape[axis + 1 :]
        else:
            global_shapes[name] = shape
    return Layout(plate, dim, *plates[plate], global_shapes, local_shapes, local_axes)


def _describe(site: dict[str, Any]) -> tuple[Shape, int, list[Any]]:
    """A latent site's unconstrained shape, how many of its axes are the event's, its plates."""
    function = site["fn"]
    if function.support.is_discrete:
        raise ValueError(
            "AutoAmortizedFlow: the latent sites of `model` must be continuous, but "
            f"{site['name']!r} is discrete ({type(function).__name__})"
        )
    with helpful_support_errors(site):
        shape = biject_to(function.support).inverse_shape(function.shape())
    return shape, len(shape) - len(function.batch_shape), list(site["cond_indep_stack"])


def _choose_plate(
    plates: dict[str, tuple[int, int]], latent: dict[str, Any], plate: str | None
) -> str:
    inhabited = [
        name for name in plates if any(f.name == name for *_, fs in latent.values() for f in fs)
    ]
    if plate is not None and plate not in plates:
        raise ValueError(
            f"AutoAmortizedFlow: `plate` must be one of the model's plates, {sorted(plates)}, got "
            f"{plate!r}"
        )
    if not inhabited or (plate is not None and plate not in inhabited):
        where = "any plate" if plate is None else f"the plate {plate!r}"
        raise ValueError(
            "AutoAmortizedFlow: there must be local latent sites, but none of the model's latent "
            f"sites {sorted(latent)} is inside of {where}; for such a model there is AutoFlow"
        )
    subsampled = [name for name in inhabited if len(set(plates[name])) > 1]
    for choice in ([plate] if plate is not None else [], subsampled, inhabited):
        if len(choice) == 1:
            return choice[0]
    raise ValueError(
        f"AutoAmortizedFlow: several plates have latent sites, {sorted(inhabited)}; say by `plate` "
        "which is that of the data"
    )


def _total(shapes: dict[str, Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _split(value: Array, shapes: dict[str, Shape]) -> dict[str, Array]:
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = jnp.split(value, ends[:-1], axis=-1)
    return {
        name: part.reshape(*value.shape[:-1], *shape)
        for part, (name, shape) in zip(parts, shapes.items(), strict=True)
    }
