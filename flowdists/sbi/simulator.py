"""A NumPyro model as a simulator: draws of parameters and of data, as vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer.util import helpful_support_errors
from numpyro.ops.provenance import eval_provenance

from flowdists import _check
from flowdists._model_sites import split_trace, values_of
from flowdists.bijectors.concatenated import Concatenation
from flowdists.sbi.interior import into_interior
from flowdists.sbi.sites import Sites, Values

Array = jax.Array
CHUNK = 4096  # simulations that are made at once


class Simulator:
    """The joint distribution of a NumPyro model's latent sites and data, to draw from.

    Draws that rounding has put on the bound of their support, where no flow has a density, are
    moved inside, by about one float.

    Args:
      model: a NumPyro model that draws its data when it is called so. It is traced by JAX: for a
        simulator in other code, hand its draws to :func:`~flowdists.fit` directly.
      *args: arguments of the model.
      observed: the site, or sites, that are the data.
      latents: the latent sites of interest, all of them unless given. Others are nuisance: they are
        drawn with the rest, so that what is learned averages over them.
      **kwargs: keyword arguments of the model.

    Attributes:
      latents: the latent sites as one vector.
      data: the observed sites as one vector.
      support: that of the latent vectors, a NumPyro constraint.
      data_support: that of the data, where it is fixed and known; None if it is unbounded.
      discrete: the observed sites that are discrete.

    Raises:
      TypeError: if ``model`` is not a function.
      ValueError: for unknown sites, sites with data, discrete latent ones, or latent ones whose
        support depends on other variables.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    ...     numpyro.sample("x", dist.Normal(0.0, scale).expand([5]).to_event(1))
    >>> simulator = Simulator(model, observed="x")
    >>> theta, x = simulator.draw(jax.random.key(0), 100)
    >>> theta.shape, x.shape, bool(simulator.support(theta).all())
    ((100, 1), (100, 5), True)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *args: Any,
        observed: str | Sequence[str],
        latents: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if not callable(model):
            raise TypeError(f"Simulator: `model` must be a function, got {type(model).__name__}")
        self._observed = (observed,) if isinstance(observed, str) else tuple(observed)
        self._run = lambda key: handlers.trace(handlers.seed(model, key)).get_trace(*args, **kwargs)
        self._run_given = lambda key, values: handlers.trace(
            handlers.seed(handlers.substitute(model, values), key)
        ).get_trace(*args, **kwargs)
        runs = [self._split(self._run(jax.random.key(seed))) for seed in (0, 1)]
        names = _chosen(latents, tuple(runs[0][0]))
        supports = [[_support(sites[0][name]) for name in names] for sites in runs]
        for name, *both in zip(names, *supports, strict=True):
            if not _equal(*both):
                raise ValueError(
                    f"Simulator: the support of {name!r} must not depend on other variables, got "
                    f"{both[0]} and {both[1]}; write the model with a fixed one"
                )
        sites, data = runs[0]
        self.latents = _sites("the latent values", {name: sites[name] for name in names})
        self.data = _sites("the data", data)
        self.support = Concatenation(supports[0], self.latents.shapes)
        self.discrete = tuple(name for name, site in data.items() if _is_discrete(site))
        data_supports = [_data_support(site, runs[1][1][name]) for name, site in data.items()]
        is_bounded = not all(map(_is_real, data_supports))
        self.data_support = Concatenation(data_supports, self.data.shapes) if is_bounded else None
        self._supports = dict(zip((*names, *data), (*supports[0], *data_supports), strict=True))
        self._values = values_of({**sites, **data})
        self._draw_each = jax.jit(self._map(self._pair))
        # The data are dead code here: nothing is simulated, unless latent values depend on it.
        self._draw_latents = jax.jit(self._map(lambda key: self._pair(key)[0]))
        self._draw_given = jax.jit(self._map(self._data_given))

    def _split(self, trace: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        return split_trace("Simulator", trace, self._observed)

    def draw(self, key: Array, num_draws: int) -> tuple[Array, Array]:
        """Draw from the joint distribution.

        Args:
          key: PRNG key.
          num_draws: how many.

        Returns:
          Latent vectors ``(num_draws, latents.size)`` and data ``(num_draws, data.size)``.
        """
        key = _check.key("Simulator.draw", key)
        num_draws = _check.positive_int("Simulator.draw", "num_draws", num_draws)
        return self.draw_each(jax.random.split(key, num_draws))

    def draw_each(self, keys: Array) -> tuple[Array, Array]:
        """Draw from the joint distribution, once for each of the keys ``(n,)``."""
        return self._draw_each(keys)

    def draw_latents(self, keys: Array) -> Array:
        """The latent vectors of :meth:`draw_each`, but for rounding, without simulating data."""
        return self._draw_latents(keys)

    def draw_data(self, key: Array, latents: Array) -> Array:
        """Draw data given latent vectors ``(n, latents.size)``: ``(n, data.size)``.

        What the model draws besides is drawn as it is in the model.

        Raises:
          ValueError: if values of ``latents`` are computed from those of other sites: given the
            former, the latter are not distributed as they are in the model.
        """
        key = _check.key("Simulator.draw_data", key)
        if self._upstream:
            raise ValueError(
                f"Simulator.draw_data: {self.latents.names} must not depend on other sites, but do "
                f"on {self._upstream}; name those as `latents` too, if they are not the data"
            )
        return self._draw_given((jax.random.split(key, len(latents)), latents))

    def stream(self, key: Array, batch_size: int) -> Iterator[tuple[Array, Array]]:
        """Draws without end, in batches: what :func:`~flowdists.fit` takes for data."""
        while True:
            key, draw_key = jax.random.split(key)
            yield self.draw(draw_key, batch_size)

    @functools.cached_property
    def _upstream(self) -> tuple[str, ...]:
        """The sites, other than those of interest, that those of interest are computed from."""

        def latents(name: str, value: Array) -> list[Array]:
            trace = self._run_given(jax.random.key(0), {name: value})
            return [trace[latent]["value"] for latent in self.latents.names]

        others = {k: v for k, v in self._values.items() if k not in self.latents.names}
        return tuple(
            name
            for name, value in others.items()
            if any(eval_provenance(functools.partial(latents, name), value=value))
        )

    def _map(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """``function`` of each of many, a chunk at a time."""

        def mapped(items: Any) -> Any:
            size = len(jax.tree.leaves(items)[0])
            return jax.lax.map(function, items, batch_size=min(CHUNK, size))

        return mapped

    def _pair(self, key: Array) -> tuple[Array, Array]:
        latents, data = map(values_of, self._split(self._run(key)))
        return self._vector(self.latents, latents), self._vector(self.data, data)

    def _data_given(self, pair: tuple[Array, Array]) -> Array:
        key, vector = pair
        trace = self._run_given(key, self.latents.unpack(vector))
        return self._vector(self.data, values_of({name: trace[name] for name in self.data.names}))

    def _vector(self, sites: Sites, values: Values) -> Array:
        vector = sites.pack("Simulator", values)
        moved = {
            name: into_interior(self._supports[name], value)
            for name, value in sites.unpack(vector).items()
        }
        return sites.pack("Simulator", moved)


def _chosen(latents: str | Sequence[str] | None, names: tuple[str, ...]) -> tuple[str, ...]:
    if latents is None:
        return names
    chosen = (latents,) if isinstance(latents, str) else tuple(latents)
    unknown = [name for name in chosen if name not in names]
    if unknown or not chosen:
        raise ValueError(
            f"Simulator: `latents` must name latent sites of the model, got {chosen}; there are "
            f"{names}"
        )
    return chosen


def _sites(what: str, sites: dict[str, Any]) -> Sites:
    return Sites(what, tuple(sites), tuple(jnp.shape(site["value"]) for site in sites.values()))


def _support(site: dict[str, Any]) -> Any:
    support = site["fn"].support
    if support.is_discrete:
        raise ValueError(
            f"Simulator: the latent sites must be continuous, but {site['name']!r} is discrete "
            f"({type(site['fn']).__name__}); name the others as `latents`, to average over it"
        )
    with helpful_support_errors(site):
        biject_to(support)
    return support


def _is_discrete(site: dict[str, Any]) -> bool:
    support = getattr(site["fn"], "support", None)
    return getattr(support, "is_discrete", False) or not jnp.issubdtype(
        jnp.result_type(site["value"]), jnp.floating
    )


def _data_support(*sites: dict[str, Any]) -> Any:
    """The support of an observed site, of two runs; all numbers, if it is not fixed and known."""
    supports = [getattr(site["fn"], "support", None) for site in sites]
    is_known = all(isinstance(support, constraints.Constraint) for support in supports)
    if not is_known or any(map(_is_discrete, sites)) or not _equal(*supports):
        return constraints.real
    try:
        biject_to(supports[0])
    except NotImplementedError:
        return constraints.real
    return supports[0]


def _is_real(constraint: Any) -> bool:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint in (constraints.real, constraints.real_vector, constraints.real_matrix)


def _equal(a: Any, b: Any) -> bool:
    leaves, structures = zip(*map(jax.tree.flatten, (a, b)), strict=True)
    return structures[0] == structures[1] and all(map(np.array_equal, *leaves))
