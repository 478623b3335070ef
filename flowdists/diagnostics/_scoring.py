"""Draws from a guide, and the densities of model and guide at each of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.autoguide import AutoLaplaceApproximation
from numpyro.primitives import Messenger

from flowdists import _check
from flowdists._model_sites import Trace, latent_sites, plate_sizes, values_of

Array = jax.Array
Extra = Callable[[Trace, Array], Any]


class Draws(NamedTuple):
    """Draws from a guide, along the first axis of each array.

    Attributes:
      latents: by site of the model, ``(num_samples, *site_shape)``.
      log_p: log joint density of the model, in nats, ``(num_samples,)``, in double precision.
      log_q: log-density of the guide, with the same shape, unit and precision.
      extra: what the caller's function of the model's trace returned.
      trace: of the model at one draw, with arrays instead of tracers.
    """

    latents: dict[str, Array]
    log_p: np.ndarray
    log_q: np.ndarray
    extra: Any
    trace: Trace

    @property
    def log_weights(self) -> np.ndarray:
        """Log importance weights in nats: ``log_p - log_q``."""
        return self.log_p - self.log_q


def draw(
    caller: str,
    key: Array,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    params: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_samples: int,
    batch_size: int | None,
    extra: Extra = lambda trace, key: None,
) -> Draws:
    """Draw from the guide and score each draw under both programs, in one run of each.

    Args:
      caller: name of the caller, for error messages.
      key: PRNG key.
      model: a NumPyro model.
      guide: its guide.
      params: values of the ``param`` sites of both.
      args: positional arguments of both.
      kwargs: keyword arguments of both.
      num_samples: how many draws.
      batch_size: how many draws are in memory at a time; None for all.
      extra: ``(trace of the model, key) -> pytree``, evaluated at each draw.

    Raises:
      TypeError: for arguments of the wrong kind.
      ValueError: if the guide has no density that can be compared with that of the model.
      FloatingPointError: if a density is NaN, that of the model infinite, or that of the guide
        zero.
    """
    key = _check.key(caller, key)
    _check.function(caller, "model", model)
    _check.function(caller, "guide", guide)
    if not isinstance(params, Mapping):
        raise TypeError(
            f"{caller}: `params` must be a dict of the values of param sites, as from "
            f"`svi.get_params(state)` or `result.params`, got {type(params).__name__}"
        )
    if batch_size is None:
        batch_size = num_samples
    batch_size = min(_check.positive_int(caller, "batch_size", batch_size), num_samples)
    if isinstance(guide, AutoLaplaceApproximation):
        guide = _with_density(guide, params, key, args, kwargs)
    key, first = jax.random.split(key)
    # Outside of compiled code, because an automatic guide sets itself up in its first run.
    trace = _check_pair(caller, *_run(model, guide, params, args, kwargs, first), params)

    def score(params: Any, key: Array) -> Any:
        run_key, extra_key = jax.random.split(key)
        model_trace, guide_trace = _run(model, guide, params, args, kwargs, run_key)
        sites = latent_sites(model_trace)
        log_p, log_q = _log_probs(model_trace), _log_probs(guide_trace)
        log_p |= {name: _on_support(site, log_p[name]) for name, site in sites.items()}
        return values_of(sites), log_p, log_q, extra(model_trace, extra_key)

    @jax.jit
    def score_all(params: Any, keys: Array) -> Any:
        # The parameters are an argument, because constants would be compiled into the program.
        return jax.lax.map(functools.partial(score, params), keys, batch_size=batch_size)

    keys = jax.random.split(key, num_samples)
    latents, log_p, log_q, extras = score_all(dict(params), keys)
    return Draws(latents, *_totals(caller, log_p, log_q), extras, trace)


def _run(
    model: Any, guide: Any, params: Any, args: Any, kwargs: Any, key: Array
) -> tuple[Trace, Trace]:
    """The traces of the model and of the guide at one draw from the guide."""
    guide_key, model_key = jax.random.split(key)
    guide = handlers.substitute(handlers.seed(guide, guide_key), data=params)
    guide_trace = handlers.trace(guide).get_trace(*args, **kwargs)
    model = handlers.seed(handlers.replay(model, guide_trace), model_key)
    model_trace = handlers.trace(handlers.substitute(model, data=params)).get_trace(*args, **kwargs)
    return model_trace, guide_trace


def _log_probs(trace: Trace) -> dict[str, Array]:
    """Log-density of every site, observed ones too, each a scalar."""
    return {name: _log_prob(site) for name, site in trace.items() if site["type"] == "sample"}


def _log_prob(site: dict[str, Any]) -> Array:
    # With the intermediates of the draw, a flow need not be inverted.
    noted = (site["intermediates"],) if site["intermediates"] else ()
    log_prob = site["fn"].log_prob(site["value"], *noted)
    return jnp.sum(log_prob if site["scale"] is None else site["scale"] * log_prob)


def _check_pair(caller: str, model_trace: Trace, guide_trace: Trace, params: Any) -> Trace:
    for program, trace in (("model", model_trace), ("guide", guide_trace)):
        missing = [n for n, s in trace.items() if s["type"] == "param" and n not in params]
        if missing:
            raise ValueError(
                f"{caller}: `params` must hold every param site of the {program}, "
                f"got none for {missing}"
            )
        for name, (size, subsample) in plate_sizes(trace).items():
            if size != subsample:
                raise ValueError(
                    f"{caller}: the plate {name!r} of the {program} holds {subsample} of {size} "
                    "rows; the density of a subsample is only an estimate, expected all the data "
                    "(for an automatic guide, one that was set up with all of it)"
                )
    latents = latent_sites(model_trace)
    missing = [name for name in latents if name not in guide_trace]
    if missing:
        raise ValueError(
            f"{caller}: `guide` must sample every latent site of the model, got none for "
            f"{missing}; give observed sites their data"
        )
    for name, site in latents.items():
        given, expected = jnp.shape(site["value"]), tuple(site["fn"].shape())
        if given != expected:
            raise ValueError(
                f"{caller}: `guide` draws the site {name!r} with shape {given}, the model expects "
                f"{expected}"
            )
    _check_dimensions(caller, latents, guide_trace)
    return model_trace


def _check_dimensions(caller: str, latents: Trace, guide_trace: Trace) -> None:
    """Sites that are functions of other sites have as many dimensions as those.

    A masked site of a guide, such as that of AutoDAIS, is not part of the density.
    """
    drawn = latent_sites(guide_trace)
    masses = [name for name in latents if dist.Delta in _kinds(drawn[name]["fn"])]
    others = {
        name: site
        for name, site in drawn.items()
        if name not in latents and not {dist.Delta, dist.MaskedDistribution} & _kinds(site["fn"])
    }
    needed = sum(math.prod(_free_shape(latents[name])) for name in masses)
    available = sum(math.prod(_free_shape(site)) for site in others.values())
    if available < needed:
        raise ValueError(
            f"{caller}: `guide` has no density: it draws {masses} from point masses of {needed} "
            f"dimensions, with only {available} random ones behind them; use a guide with spread, "
            "such as AutoNormal in place of AutoDelta"
        )
    if available > needed:
        raise ValueError(
            f"{caller}: `guide` draws auxiliary sites {list(others)} of {available} dimensions, "
            f"but only {needed} dimensions of the model's sites are functions of them; expected a "
            "guide whose density of the model's sites is known"
        )


def _kinds(fn: Any) -> set[type]:
    """The classes of a distribution and of its base distributions."""
    kinds = {type(fn)}
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
        kinds.add(type(fn))
    return kinds


def _free_shape(site: dict[str, Any]) -> tuple[int, ...]:
    """Shape of a site's value in unconstrained space."""
    shape = jnp.shape(site["value"])
    try:
        return tuple(biject_to(site["fn"].support).inverse_shape(shape))
    except NotImplementedError:
        return shape


def _on_support(site: dict[str, Any], log_prob: Array) -> Array:
    """``log_prob`` if the value is in the support, minus infinity if it is not, NaN if it is NaN.

    Densities in NumPyro need not be zero outside of their support, nor NaN at NaN. A support with
    fewer dimensions than the space around it, such as a simplex, is not checked: the draws of a
    guide with a density there are in it up to rounding.
    """
    fn, value = site["fn"], site["value"]
    if fn.support is None or dist.MaskedDistribution in _kinds(fn):
        return log_prob
    thin = _free_shape(site) != jnp.shape(value)
    inside = thin | jnp.all(fn.support(value))
    undefined = jnp.any(jnp.isnan(value))
    return jnp.where(undefined, jnp.nan, jnp.where(inside, log_prob, -jnp.inf))


def _totals(
    caller: str, log_p: dict[str, Array], log_q: dict[str, Array]
) -> tuple[np.ndarray, np.ndarray]:
    """Sum over sites, in double precision."""
    p, q = jax.tree.map(lambda value: np.asarray(value, np.float64), (log_p, log_q))
    faults = {
        **{f"model site {n!r}": np.isnan(v) | (v == np.inf) for n, v in p.items()},
        **{f"guide site {n!r}": np.isnan(v) | (v == -np.inf) for n, v in q.items()},
    }
    undefined = np.logical_or.reduce(list(faults.values()))
    if undefined.any():
        counts = ", ".join(f"{name}: {bad.sum()}" for name, bad in faults.items() if bad.any())
        raise FloatingPointError(
            f"{caller}: {undefined.sum()} of {undefined.size} draws have no weight, because a "
            f"density is NaN, that of the model infinite or that of the guide zero ({counts})"
        )
    return np.sum(list(p.values()), axis=0), np.sum(list(q.values()), axis=0)


class _Replace(Messenger):
    """Gives one site of a program another distribution."""

    def __init__(self, fn: Callable[..., Any], name: str, distribution: dist.Distribution) -> None:
        super().__init__(fn)
        self._name = name
        self._distribution = distribution

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] == self._name:
            msg["fn"] = self._distribution


def _with_density(
    guide: AutoLaplaceApproximation, params: Any, key: Array, args: Any, kwargs: Any
) -> Callable[..., Any]:
    """The guide with its Gaussian, because in SVI the guide is a point mass at the mode."""
    name = f"_{guide.prefix}_latent"
    mode = f"{guide.prefix}_loc"
    if guide.prototype_trace is None:
        handlers.seed(guide, key)(*args, **kwargs)
    if mode not in params:
        return guide  # the missing site is reported later
    return _Replace(guide, name, guide.get_posterior(params))
