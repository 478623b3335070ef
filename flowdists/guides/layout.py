"""Where the latent variables of a model lie: inside of the plate of its data, or outside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import helpful_support_errors

from flowdists._model_sites import Packing, Shape, Trace, Values, latent_sites
from flowdists.guides.replay import has_live_supports

Array = jax.Array


class Layout(NamedTuple):
    """The latent sites of a model, unconstrained, inside and outside of a plate.

    Attributes:
      plate: name of the plate.
      dim: its batch dimension, counted from the right.
      size: number of elements of the whole plate.
      subsample_size: number of its elements in one run of the model.
      outside: the global sites, as one vector.
      inside: the local sites of one element of the plate, as one vector.
      local_axes: which axis of each local site is the plate's, counted from the right.
      sites: the latent sites, if their supports are the same in every run; otherwise None.
    """

    plate: str
    dim: int
    size: int
    subsample_size: int
    outside: Packing
    inside: Packing
    local_axes: dict[str, int]
    sites: Trace | None

    @property
    def names(self) -> set[str]:
        """The latent sites."""
        return {*self.outside.shapes, *self.inside.shapes}

    def pack_locals(self, values: Mapping[str, Array]) -> Array:
        """The local sites' values as one vector for each element of the plate, ``(rows, size)``."""
        axes = self.local_axes.items()
        return self.inside.pack({name: jnp.moveaxis(values[name], axis, 0) for name, axis in axes})

    def unpack_locals(self, matrix: Array) -> Values:
        """The inverse of :meth:`pack_locals`."""
        rows = self.inside.unpack(matrix)
        return {name: jnp.moveaxis(row, 0, self.local_axes[name]) for name, row in rows.items()}


def find_layout(
    caller: str,
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    plate: str,
    names: Collection[str],
) -> Layout:
    """The layout of ``model`` for these arguments, found without computing anything.

    Args:
      caller: the guide's name, for error messages.
      model: a NumPyro model.
      args: its arguments.
      kwargs: its keyword arguments.
      plate: the plate.
      names: the latent sites. Others are ignored, as those of data that are not given are.

    Raises:
      ValueError: as :func:`layout_of`.
    """
    found = []

    def run() -> None:
        with handlers.block():
            trace = handlers.trace(handlers.seed(model, rng_seed=0)).get_trace(*args, **kwargs)
        latents = {name: site for name, site in latent_sites(trace).items() if name in names}
        found.append(layout_of(caller, trace, latents, plate))

    jax.eval_shape(run)
    return found[0]


def layout_of(caller: str, trace: Trace, latents: Trace, plate: str | None = None) -> Layout:
    """The layout of a model that was run.

    Args:
      caller: the guide's name, for error messages.
      trace: the model's trace.
      latents: its latent sites.
      plate: the plate; by default the only one with latent sites, or of several the only one
        that is subsampled.

    Raises:
      ValueError: if the plate is unknown, ambiguous or holds no latent site; if a latent site is
        inside of another plate that is subsampled.
    """
    plates: dict[str, tuple[int, int]] = {}
    for name, site in trace.items():
        if site["type"] == "plate":
            size, num = site["args"]
            plates[name] = (size, size if num is None else num)
    plate = _choose_plate(caller, plates, latents, plate)
    dim = -1
    outside: dict[str, Shape] = {}
    inside: dict[str, Shape] = {}
    local_axes: dict[str, int] = {}
    for name, site in latents.items():
        shape = _unconstrained_shape(site)
        frames = {frame.name: frame for frame in site["cond_indep_stack"]}
        others = [other for other in frames if other != plate and _is_subsampled(plates[other])]
        if others:
            raise ValueError(
                f"{caller}: latent site {name!r} is inside of {others[0]!r}, which is subsampled, "
                f"but only the plate of the data, {plate!r}, may be"
            )
        if plate in frames:
            dim = frames[plate].dim
            local_axes[name] = dim - (len(shape) - len(site["fn"].batch_shape))
            axis = len(shape) + local_axes[name]
            inside[name] = shape[:axis] + shape[axis + 1 :]
        else:
            outside[name] = shape
    sites = None if has_live_supports(latents) else latents
    size, num = plates[plate]
    return Layout(plate, dim, size, num, Packing(outside), Packing(inside), local_axes, sites)


def _unconstrained_shape(site: dict[str, Any]) -> Shape:
    with helpful_support_errors(site):
        return biject_to(site["fn"].support).inverse_shape(site["fn"].shape())


def _is_subsampled(sizes: tuple[int, int]) -> bool:
    return sizes[0] != sizes[1]


def _choose_plate(
    caller: str, plates: dict[str, tuple[int, int]], latents: Trace, plate: str | None
) -> str:
    if plate is not None and plate not in plates:
        raise ValueError(
            f"{caller}: `plate` must be one of the model's plates, {sorted(plates)}, got {plate!r}"
        )
    inhabited = {frame.name for site in latents.values() for frame in site["cond_indep_stack"]}
    if not inhabited or (plate is not None and plate not in inhabited):
        where = "any plate" if plate is None else f"the plate {plate!r}"
        raise ValueError(
            f"{caller}: there must be local latent sites, but none of the model's latent sites "
            f"{sorted(latents)} is inside of {where}; for such a model there is AutoFlow"
        )
    if plate is not None:
        return plate
    subsampled = [name for name in inhabited if _is_subsampled(plates[name])]
    for choice in (subsampled, [*inhabited]):
        if len(choice) == 1:
            return choice[0]
    raise ValueError(
        f"{caller}: several plates have latent sites, {sorted(inhabited)}; say by `plate` which is "
        "that of the data"
    )
