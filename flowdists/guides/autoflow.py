"""The guide that puts a flow over all latent variables of a model."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import UnpackTransform
from numpyro.infer.autoguide import AutoContinuous, AutoGuide
from numpyro.infer.initialization import init_to_uniform

from flowdists import _check
from flowdists._model_sites import Packing, Trace, latent_sites
from flowdists.bijectors import Affine, Bijector, Chain
from flowdists.flow import Flow
from flowdists.guides.flow_argument import FlowArgument
from flowdists.guides.lifecycle import at_params, check_set_up, setting_up
from flowdists.guides.module import built, flow_module
from flowdists.guides.pathfinder import Gaussian
from flowdists.guides.quantiles import QuantilesOfDraws
from flowdists.guides.replay import constrained_draw, has_live_supports, run_at
from flowdists.guides.start import gaussian_start, pathfinder_start, start_module
from flowdists.recipes import NSF

Array = jax.Array


class AutoFlow(QuantilesOfDraws, AutoContinuous):
    r"""A guide for any model with continuous latent variables: a flow over all of them.

    The latent variables, unconstrained and concatenated, are ``start(affine(flow(z)))``. A new
    ``flow`` is the identity; ``affine`` is a trained shift and scale of every dimension; ``start``
    is a fixed Gaussian that sets the units, so that one learning rate suits all models. By default
    Pathfinder finds that Gaussian when the parameters are initialized (up to 60 steps of L-BFGS).
    An ELBO costs one evaluation of each layer's network per particle, and with ``path_derivative``
    an inverse of the flow as well.

    If a model subsamples its data, Pathfinder sees all rows, or ten thousand at random. (A start
    from n rows of N is off by about ``sqrt(N / n)`` posterior standard deviations.) For that the
    model has to pick its rows itself, by the plate's indices or by ``numpyro.subsample``. If the
    model is given the rows of a minibatch, Pathfinder sees only those: start with a large one.

    This is a :class:`numpyro.infer.autoguide.AutoContinuous` guide, for
    :class:`~numpyro.infer.SVI` with any of NumPyro's ELBOs, :class:`~numpyro.infer.Predictive`,
    neural transport and so on. :func:`~flowdists.fit_guide` trains it with defaults that need no
    tuning.

    Args:
      model: a NumPyro model.
      flow: a recipe; or a function ``(key, event_shape)`` that returns a :class:`~flowdists.Flow`;
        or a Flow with one dimension for each latent dimension of the model. With one latent
        dimension, an autoregressive recipe replaces a coupling recipe.
      prefix: prefix of the parameters' names: ``{prefix}_flow...``, ``{prefix}_affine...`` and,
        for the start, which is not trained, ``{prefix}_loc`` and ``{prefix}_scale``.
      init_loc_fn: one of NumPyro's initialization strategies, to start from its values. By default,
        Pathfinder finds the start.
      init_scale: standard deviations around ``init_loc_fn``'s values, in unconstrained space.
      path_derivative: whether gradients leave out the score of the flow's own parameters, which
        has mean zero ("sticking the landing", Roeder, Wu & Duvenaud 2017,
        https://arxiv.org/abs/1703.09194). Their variance then vanishes as the guide becomes exact.
        Each gradient costs one more inverse of the flow. Only for an ELBO: in the gradient of
        :class:`~numpyro.infer.RenyiELBO`, the mean of the score is not zero.
      create_plates: as in :class:`~numpyro.infer.autoguide.AutoGuide`.
      **flow_options: passed to the recipe or function, such as ``num_layers=4``.

    Raises:
      ValueError: if an option is out of range; when the guide first runs, if the flow and the
        model have different numbers of dimensions, or the model has discrete latent variables.
      RuntimeError: when the guide first runs, if the model has no latent variables, or no finite
        density where it starts.
      TypeError: if ``flow`` is none of the above.

    >>> import numpyro, numpyro.distributions as dist, optax
    >>> def model(y):
    ...     scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    ...     with numpyro.plate("data", 3):
    ...         x = numpyro.sample("x", dist.Normal(0, scale))
    ...         numpyro.sample("y", dist.Normal(x, 1), obs=y)
    >>> y = jnp.array([1.0, -1.0, 0.5])
    >>> guide = AutoFlow(model, IAF, num_layers=1, hidden_sizes=(16,))
    >>> svi = numpyro.infer.SVI(model, guide, optax.adam(1e-3), numpyro.infer.Trace_ELBO())
    >>> params = svi.run(jax.random.key(0), 10, y, progress_bar=False).params
    >>> draws = guide.sample_posterior(jax.random.key(1), params, sample_shape=(100,))
    >>> {name: value.shape for name, value in sorted(draws.items())}
    {'scale': (100,), 'x': (100, 3)}
    """

    # Attributes of NumPyro's class, which has no types.
    prototype_trace: Any
    _init_locs: dict[str, Array]
    _potential_fn_gen: Callable[..., Any]

    def __init__(
        self,
        model: Callable[..., Any],
        flow: Any = NSF,
        *,
        prefix: str = "auto",
        init_loc_fn: Callable[..., Any] | None = None,
        init_scale: float = 0.1,
        path_derivative: bool = False,
        create_plates: Callable[..., Any] | None = None,
        **flow_options: Any,
    ) -> None:
        caller = type(self).__name__
        self._flow = FlowArgument(caller, "flow", flow, flow_options, Flow)
        self._init_scale = _check.positive(caller, "init_scale", init_scale)
        self._path_derivative = path_derivative
        self._finds_start = init_loc_fn is None
        self._guide_start: Callable[[Packing], Gaussian] | None = None
        super().__init__(
            model,
            prefix=prefix,
            init_loc_fn=init_to_uniform if init_loc_fn is None else init_loc_fn,
            create_plates=create_plates,
        )

    @classmethod
    def from_guide(
        cls, guide: AutoGuide, params: dict[str, Any], flow: Any = NSF, **options: Any
    ) -> AutoFlow:
        """A guide that starts as a trained Gaussian guide, with the same ELBO.

        Args:
          guide: a trained AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal,
            AutoLowRankMultivariateNormal or AutoLaplaceApproximation.
          params: its parameters, as from ``svi.get_params``.
          flow: as in the constructor. A flow that does not start as the identity changes the start.
          **options: as in the constructor.

        Raises:
          TypeError: if ``guide`` is not one of these.
          ValueError: if it has not been run.
        """
        start = gaussian_start(f"{cls.__name__}.from_guide", guide, params)
        new = cls(guide.model, flow, init_loc_fn=guide.init_loc_fn, **options)
        new._guide_start = start
        return new

    def with_path_derivative(self) -> AutoFlow:
        """The same guide, which shares its parameters, with ``path_derivative=True``."""
        guide = copy.copy(self)
        guide._path_derivative = True
        return guide

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        values = self._unpack_latent(self._sample_latent(*args, **kwargs))
        sites = self.prototype_trace
        if self._has_live_supports:
            sites = run_at(self.model, args, kwargs, values)
        return {
            name: numpyro.sample(name, constrained_draw(sites[name]["fn"], value))
            for name, value in values.items()
        }

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        with setting_up(self, args, kwargs):
            super()._setup_prototype(*args, **kwargs)
            latents = latent_sites(self.prototype_trace)
            self._concatenate(latents)
            meaning = (
                "an event has one dimension for each of the model's latent ones (unconstrained: "
                f"{self._packing.shapes})"
            )
            self._make_flow = self._flow.resolve((self._packing.size,), meaning)
            self._base = built(self._make_flow).base
        self._has_live_supports = has_live_supports(latents)

    def _concatenate(self, latents: Trace) -> None:
        # The order of the sites is that of the model. NumPyro's order depends on whether the key
        # was traced and the first location valid: with the same parameters, the guide could then be
        # another distribution.
        self._packing = Packing({name: jnp.shape(self._init_locs[name]) for name in latents})
        self._init_latent = self._packing.pack(self._init_locs)
        self._unpack_latent = UnpackTransform(self._packing.unpack, self._packing.pack)

    def _get_start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Gaussian | None:
        if self._guide_start is not None:
            return start_module(self.prefix, functools.partial(self._guide_start, self._packing))
        if not self._finds_start:
            return None
        find = functools.partial(
            pathfinder_start,
            numpyro.prng_key(),
            self._potential_fn_gen(*args, **kwargs),  # for these data, not those of the first call
            self.prototype_trace,
            self._packing,
            self._init_latent,
            self._init_scale,
        )
        return start_module(self.prefix, find)

    def _get_posterior(self, *args: Any, **kwargs: Any) -> Flow:
        flow = flow_module(f"{self.prefix}_flow", self._make_flow)
        start = self._get_start(args, kwargs)
        loc, scale = self._init_latent, self._init_scale
        if start is not None:  # it sets the units, in which the guide is standard normal
            loc, scale = jnp.zeros(self.latent_dim), 1.0
        initial = Affine(loc, jnp.full(self.latent_dim, scale))
        layers = [flow.bijector, flow_module(f"{self.prefix}_affine", initial)]
        if start is not None:
            layers.append(start.as_layer())
        return Flow(self._base, Chain(layers))

    def _sample_latent(self, *args: Any, **kwargs: Any) -> Array:
        posterior = self._get_posterior(*args, **kwargs)
        if self._path_derivative:
            posterior = _PathDerivativeFlow(posterior.base, posterior.bijector)
        site = f"_{self.prefix}_latent"
        return numpyro.sample(site, posterior, infer={"is_auxiliary": True})

    def _unpack_and_constrain(self, latent_sample: Array, params: dict[str, Any]) -> dict[str, Any]:
        # The model's own parameters are substituted, because NumPyro would take parameters that
        # are given to it here for unconstrained ones.
        sites = self.prototype_trace.items()
        own = [name for name, site in sites if site["type"] == "param" and name in params]
        with handlers.substitute(data={name: params[name] for name in own}):
            return super()._unpack_and_constrain(latent_sample, {})

    def get_base_dist(self) -> dist.Distribution:
        """The flow's base distribution."""
        check_set_up(self, "get_base_dist")
        return self._base

    def get_transform(self, params: dict[str, Any]) -> Bijector:
        """The bijector from the base to the unconstrained latent variables."""
        return self.get_posterior(params).bijector

    def get_posterior(self, params: dict[str, Any]) -> Flow:
        """The flow over the unconstrained latent variables, concatenated in the model's order.

        Raises:
          ValueError: if the guide has not been run, or ``params`` lacks one of its parameters.
        """
        check_set_up(self, "get_posterior")
        return at_params(self, self._get_posterior, params)

    def sample_posterior(
        self,
        rng_key: Array,
        params: dict[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Array]:
        """Draw from the guide, with the model's deterministic sites.

        Args:
          rng_key: PRNG key.
          params: trained parameters.
          *args: the model's arguments. They are needed only if the guide has not been run (as when
            parameters are loaded in a new process), if it was run by a jitted function, or if
            deterministic sites are wanted for other arguments.
          sample_shape: shape of independent draws.
          **kwargs: the model's keyword arguments.

        Returns:
          The draws of each site, ``(*sample_shape, *site_shape)``.

        Raises:
          ValueError: if ``params`` lacks one of the guide's parameters.
        """
        guide = self
        if self.prototype_trace is None or args or kwargs:
            guide = self if self.prototype_trace is None else copy.copy(self)
            with handlers.seed(rng_seed=rng_key):
                guide._setup_prototype(*args, **kwargs)
        latent = guide.get_posterior(params).sample(rng_key, sample_shape)
        return guide._unpack_and_constrain(latent, params)


class _PathDerivativeFlow(Flow):
    """A flow whose density passes gradients to the value, but not to the flow's parameters."""

    def _log_prob(self, value: Array, intermediates: list[Any] | None) -> Array:
        frozen = Flow(self.base, jax.lax.stop_gradient(self.bijector))
        return frozen.log_prob(value)
