"""Which latent variables of a model are inside the plate of its data, and which are outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import helpful_support_errors

from flowdists._model_sites import Packing, Shape, Trace, Values, latent_sites, plate_sizes
from flowdists.guides.replay import has_live_supports

Array = jax.Array


class Layout(NamedTuple):
    """The latent sites of a model, unconstrained: local ones inside a plate, global ones outside.

    Attributes:
      plate: the name of the plate.
      dim: the batch dimension of the plate, a negative number.
      size: the number of elements of the whole plate.
      subsample_size: the number of its elements in one run of the model.
      outside: how the global sites make one vector.
      inside: how the local sites of one element of the plate make one vector.
      local_axes: for each local site the axis of the plate, a negative number.
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

    def pack_locals(self, values: Mapping[str, Array]) -> Array:
        """The local sites' values, a vector for each element of the plate: ``(rows, size)``."""
        axes = self.local_axes.items()
        return self.inside.pack({name: jnp.moveaxis(values[name], axis, 0) for name, axis in axes})

    def unpack_locals(self, matrix: Array) -> Values:
        """The inverse of :meth:`pack_locals`."""
        rows = self.inside.unpack(matrix)
        return {name: jnp.moveaxis(row, 0, self.local_axes[name]) for name, row in rows.items()}

    def again(
        self, caller: str, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Layout:
        """The layout of the same model for other arguments, found without computing anything.

        Latent sites that were not there before are ignored: sites whose data are missing now.

        Args:
          caller: the name of the guide, for error messages.
          model: a NumPyro model.
          args: its arguments.
          kwargs: its keyword arguments.

        Raises:
          ValueError: as :func:`layout_of`, or if more than the size of the plate has changed.
        """
        known = {*self.outside.shapes, *self.inside.shapes}
        found = []

        def run() -> None:
            with handlers.block():
                trace = handlers.trace(handlers.seed(model, rng_seed=0)).get_trace(*args, **kwargs)
            latents = {name: site for name, site in latent_sites(trace).items() if name in known}
            found.append(layout_of(caller, trace, latents, self.plate))

        jax.eval_shape(run)
        (layout,) = found
        if (layout.outside, layout.inside, layout.dim) != (self.outside, self.inside, self.dim):
            raise ValueError(
                f"{caller}: only the size of the data's plate may change from call to call; the "
                f"global latent sites (unconstrained) were {self.outside.shapes} and are "
                f"{layout.outside.shapes}, those of a datum were {self.inside.shapes} and are "
                f"{layout.inside.shapes}"
            )
        return layout


def layout_of(caller: str, trace: Trace, latents: Trace, plate: str | None = None) -> Layout:
    """The layout of a model that was run.

    Args:
      caller: the name of the guide, for error messages.
      trace: the trace of the model.
      latents: its latent sites.
      plate: the plate of the data. By default, the only plate with latent sites; if there are
        several, the only one of these that is subsampled.

    Raises:
      ValueError: if the plate is unknown, ambiguous or has no latent site, or a latent site is
        inside another plate that is subsampled.
    """
    plates = plate_sizes(trace)
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
                f"but only the plate of the data, {plate!r}, may be subsampled"
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
    with_latents = {frame.name for site in latents.values() for frame in site["cond_indep_stack"]}
    if not with_latents or (plate is not None and plate not in with_latents):
        where = "any plate" if plate is None else f"the plate {plate!r}"
        raise ValueError(
            f"{caller}: there must be local latent sites, but none of the model's latent sites "
            f"{sorted(latents)} is inside of {where}; use AutoFlow for such a model"
        )
    if plate is not None:
        return plate
    subsampled = [name for name in with_latents if _is_subsampled(plates[name])]
    for choice in (subsampled, [*with_latents]):
        if len(choice) == 1:
            return choice[0]
    raise ValueError(
        f"{caller}: several plates have latent sites, {sorted(with_latents)}; give the plate of "
        "the data as `plate`"
    )
