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
from flowdists._model_sites import Trace, Values, latent_and_observed, values_of
from flowdists.bijectors.compose.concatenated import Concatenation
from flowdists.sbi.sites import Sites

Array = jax.Array
CHUNK = 4096  # simulations that are computed at once


class Simulator:
    """The joint distribution of a NumPyro model's latent sites and data, to draw from.

    Rounding can put a draw on the bound of its support, where no flow has a density. Such draws are
    moved inside, by about one float.

    Args:
      model: a NumPyro model that draws its data when it is called with these arguments. JAX traces
        it. If your simulator is other code, give its draws to :func:`~flowdists.fit` directly.
      *args: arguments of the model.
      observed: the site, or sites, that are the data.
      latents: the latent sites of interest, by default all. The others are nuisance variables: they
        are drawn as well, so that what is learned averages over them.
      **kwargs: keyword arguments of the model.

    Attributes:
      latents: the latent sites as one vector.
      data: the observed sites as one vector.
      support: the support of the latent vectors, a NumPyro constraint.
      data_support: the support of the data, if it is fixed and known; None if it is unbounded.
      discrete: the observed sites that are discrete.

    Raises:
      TypeError: if ``model`` is not a function.
      ValueError: for unknown sites, sites with data, discrete latent sites, or latent sites whose
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
        _check.function("Simulator", "model", model)
        self._model = model
        self._args = args
        self._kwargs = kwargs
        self._split = functools.partial(
            latent_and_observed, "Simulator", observed=observed, latents=latents
        )
        latent_sites, data_sites = self._split(self._trace(jax.random.key(0)))
        # A support that differs between two runs depends on what is drawn.
        others = self._split(self._trace(jax.random.key(1)))
        supports = [_support(site, others[0][name]) for name, site in latent_sites.items()]
        data_supports = [_data_support(site, others[1][name]) for name, site in data_sites.items()]
        self.latents = _sites("the latent values", latent_sites)
        self.data = _sites("the data", data_sites)
        self.discrete = tuple(name for name, site in data_sites.items() if _is_discrete(site))
        self.support = Concatenation(supports, self.latents.shapes)
        self.data_support: Any = None
        if not all(map(_is_real, data_supports)):
            self.data_support = Concatenation(data_supports, self.data.shapes)
        names = (*self.latents.names, *self.data.names)
        self._supports = dict(zip(names, (*supports, *data_supports), strict=True))
        self._draw_each = jax.jit(_in_chunks(self._pair))
        # The data are dead code here: nothing is simulated, unless latent values depend on it.
        self._draw_latents = jax.jit(_in_chunks(lambda key: self._pair(key)[0]))
        self._draw_given = jax.jit(_in_chunks(self._data_given))

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
        """The latent vectors of :meth:`draw_each`, up to rounding, without simulating data."""
        return self._draw_latents(keys)

    def draw_data(self, key: Array, latents: Array) -> Array:
        """Draw data given latent vectors ``(n, latents.size)``: ``(n, data.size)``.

        All other variables are drawn as in the model.

        Raises:
          ValueError: if values of ``latents`` are computed from other sites: given these latent
            values, the other sites do not have the distribution that the model draws them from.
        """
        key = _check.key("Simulator.draw_data", key)
        if self._upstream:
            raise ValueError(
                f"Simulator.draw_data: {self.latents.names} must not depend on other sites, but "
                f"they depend on {self._upstream}; name those as `latents` too, if they are not "
                "the data"
            )
        return self._draw_given((jax.random.split(key, len(latents)), latents))

    def stream(self, key: Array, batch_size: int) -> Iterator[tuple[Array, Array]]:
        """An endless stream of draws in batches, which :func:`~flowdists.fit` takes as data."""
        while True:
            key, draw_key = jax.random.split(key)
            yield self.draw(draw_key, batch_size)

    @functools.cached_property
    def _upstream(self) -> tuple[str, ...]:
        """The other sites that the latent values of interest are computed from."""

        def latents(name: str, value: Array) -> Values:
            trace = self._trace(jax.random.key(0), {name: value})
            return values_of({latent: trace[latent] for latent in self.latents.names})

        trace = self._trace(jax.random.key(0))
        return tuple(
            name
            for name, site in trace.items()
            if site["type"] == "sample"
            and name not in self.latents.names
            and any(eval_provenance(functools.partial(latents, name), value=site["value"]).values())
        )

    def _trace(self, key: Array, values: Values | None = None) -> Trace:
        """The trace of one run of the model, at the given values of some sites."""
        model = handlers.seed(handlers.substitute(self._model, values or {}), key)
        return handlers.trace(model).get_trace(*self._args, **self._kwargs)

    def _pair(self, key: Array, values: Values | None = None) -> tuple[Array, Array]:
        """One latent vector and its data."""
        latents, data = self._split(self._trace(key, values))
        return self._vector(self.latents, latents), self._vector(self.data, data)

    def _data_given(self, pair: tuple[Array, Array]) -> Array:
        key, vector = pair
        return self._pair(key, self.latents.unpack(vector))[1]

    def _vector(self, sites: Sites, drawn: Trace) -> Array:
        vector = sites.pack("Simulator", values_of(drawn))
        moved = {
            name: _into_interior(self._supports[name], value)
            for name, value in sites.unpack(vector).items()
        }
        return sites.pack("Simulator", moved)


def _in_chunks(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``function`` of each of many, a chunk at a time."""

    def mapped(items: Any) -> Any:
        size = len(jax.tree.leaves(items)[0])
        return jax.lax.map(function, items, batch_size=min(CHUNK, size))

    return mapped


def _sites(what: str, sites: Trace) -> Sites:
    return Sites(what, tuple(sites), tuple(jnp.shape(site["value"]) for site in sites.values()))


def _support(site: dict[str, Any], other: dict[str, Any]) -> Any:
    """The support of a latent site, given the site in two runs."""
    name, support = site["name"], site["fn"].support
    if support.is_discrete:
        raise ValueError(
            f"Simulator: the latent sites must be continuous, but {name!r} is discrete "
            f"({type(site['fn']).__name__}); name the others as `latents`, to average over it"
        )
    with helpful_support_errors(site):
        biject_to(support)
    if not _equal(support, other["fn"].support):
        raise ValueError(
            f"Simulator: the support of {name!r} must not depend on other variables, got "
            f"{support} and {other['fn'].support}; write the model with a fixed one"
        )
    return support


def _data_support(site: dict[str, Any], other: dict[str, Any]) -> Any:
    """The support of an observed site, if it is fixed and known; otherwise all real numbers."""
    support, other_support = (getattr(run["fn"], "support", None) for run in (site, other))
    is_known = isinstance(support, constraints.Constraint) and not _is_discrete(site)
    if not is_known or not _equal(support, other_support):
        return constraints.real
    try:
        biject_to(support)
    except NotImplementedError:
        return constraints.real
    return support


def _is_discrete(site: dict[str, Any]) -> bool:
    support = getattr(site["fn"], "support", None)
    return getattr(support, "is_discrete", False) or not jnp.issubdtype(
        jnp.result_type(site["value"]), jnp.floating
    )


def _is_real(constraint: Any) -> bool:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint in (constraints.real, constraints.real_vector, constraints.real_matrix)


def _equal(a: Any, b: Any) -> bool:
    leaves, structures = zip(*map(jax.tree.flatten, (a, b)), strict=True)
    return structures[0] == structures[1] and all(map(np.array_equal, *leaves))


def _into_interior(support: Any, value: Array) -> Array:
    """``value``; or, if it lies on the bound of ``support``, its neighbour inside.

    A sampler rounds: ``Uniform(2000.0, 2010.0)`` draws each of its bounds about once in 100,000
    times, and there the map to unbounded space is infinite. Such a value moves towards the image of
    the origin. From the end of a half-line it moves by one float. In any other set it moves by its
    rounding error relative to the size of the set, because draws are spaced as finely as that, and
    by at least one float. A value that is NaN, infinite, or outside of the support stays.
    """
    onto = biject_to(support)
    unbounded = onto.inv(value)
    centre = onto(jnp.zeros_like(unbounded))
    limits = jnp.finfo(value.dtype)
    is_half_line = support(jnp.full_like(value, limits.max)).all()
    step = jnp.where(is_half_line, limits.tiny, 2 * limits.eps * jnp.abs(centre - value))
    moved = value + jnp.sign(centre - value) * step
    moved = jnp.where(moved == value, jnp.nextafter(value, centre), moved)
    on_bound = jnp.isfinite(value).all() & ~jnp.isfinite(unbounded).all()
    return jnp.where(on_bound, moved, value)
