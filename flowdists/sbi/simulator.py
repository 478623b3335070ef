"""A NumPyro model as a simulator: draws of parameters and of data, as vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import helpful_support_errors

from flowdists import _check
from flowdists.bijectors.concatenated import Concatenation
from flowdists.infer._joint import split_trace, values_of
from flowdists.sbi.sites import Sites, Values

Array = jax.Array
CHUNK = 4096  # simulations that are made at once


class Simulator:
    """The joint distribution of a NumPyro model's latent sites and data, to draw from.

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
      support: of that of the latent sites, a NumPyro constraint.

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
        self._draw = jax.jit(self._draw_one_by_one, static_argnums=1)
        self._draw_given = jax.jit(self._draw_data)

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
        return self._draw(key, _check.positive_int("Simulator.draw", "num_draws", num_draws))

    def draw_data(self, key: Array, latents: Array) -> Array:
        """Draw data given latent vectors ``(n, latents.size)``: ``(n, data.size)``.

        What the model draws besides is drawn as it is in the model.
        """
        return self._draw_given(_check.key("Simulator.draw_data", key), latents)

    def stream(self, key: Array, batch_size: int) -> Iterator[tuple[Array, Array]]:
        """Draws without end, in batches: what :func:`~flowdists.fit` takes for data."""
        while True:
            key, draw_key = jax.random.split(key)
            yield self.draw(draw_key, batch_size)

    def _draw_one_by_one(self, key: Array, num_draws: int) -> tuple[Array, Array]:
        def one(key: Array) -> tuple[Array, Array]:
            latents, data = map(values_of, self._split(self._run(key)))
            return self._vector(self.latents, latents), self._vector(self.data, data)

        keys = jax.random.split(key, num_draws)
        return jax.lax.map(one, keys, batch_size=min(CHUNK, num_draws))

    def _draw_data(self, key: Array, latents: Array) -> Array:
        def one(pair: tuple[Array, Array]) -> Array:
            key, vector = pair
            trace = self._run_given(key, self.latents.unpack(vector))
            return self._vector(self.data, {name: trace[name]["value"] for name in self.data.names})

        keys = jax.random.split(key, len(latents))
        return jax.lax.map(one, (keys, latents), batch_size=min(CHUNK, len(latents)))

    def _vector(self, sites: Sites, values: Values) -> Array:
        return sites.pack("Simulator", values)


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


def _equal(a: Any, b: Any) -> bool:
    leaves, structures = zip(*map(jax.tree.flatten, (a, b)), strict=True)
    return structures[0] == structures[1] and all(map(np.array_equal, *leaves))
