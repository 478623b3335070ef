"""The guide that puts a flow over all latent variables of a model."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import UnpackTransform
from numpyro.infer.autoguide import AutoContinuous, AutoGuide
from numpyro.infer.initialization import init_to_uniform

from flowdists import _check
from flowdists.bijectors import Affine, Chain
from flowdists.bijectors.base import Bijector
from flowdists.distribution import Flow
from flowdists.flows import NSF
from flowdists.guides._factory import for_one_dimension, is_factory
from flowdists.guides.module import flow_module
from flowdists.guides.pathfinder import Start, pathfinder
from flowdists.guides.replay import MoreRows, constrained_draw, run_at
from flowdists.guides.start import check_gaussian, gaussian_start, ravel

Array = jax.Array

MAX_START_ROWS = 10_000
"""So many elements of subsampled plates Pathfinder sees at most, unless a subsample is larger."""


class AutoFlow(AutoContinuous):
    r"""A guide for any model with continuous latent variables: a flow over all of them.

    The latent variables, unconstrained and concatenated, are ``start(affine(flow(z)))``: ``flow``
    as given, new ones being the identity; ``affine`` a shift and scale of every dimension,
    trained; ``start`` a fixed Gaussian that sets the units, so that one learning rate suits all
    models. By default Pathfinder finds that Gaussian when the parameters are initialized (up to 60
    steps of L-BFGS). An ELBO costs one evaluation of each layer's network per particle; with
    ``path_derivative``, an inverse of the flow more.

    Where a model subsamples its data, Pathfinder sees all of them, or ten thousand at random. (A
    start from n rows of N is off by about the root of N/n posterior deviations.) That takes a model
    that picks its own rows, by the plate's indices or by ``numpyro.subsample``; where it is given
    the rows of a minibatch, these are all that there is, and they had better be many at first.

    A :class:`numpyro.infer.autoguide.AutoContinuous` guide, for :class:`~numpyro.infer.SVI` with
    any of NumPyro's ELBOs, :class:`~numpyro.infer.Predictive`, neural transport and so on.
    :func:`~flowdists.fit_guide` trains it with defaults that need no tuning.

    Args:
      model: a NumPyro model.
      flow: a recipe; or a function ``(key, event_shape)`` that returns a :class:`~flowdists.Flow`;
        or a Flow on as many dimensions as the model has latent ones. With one latent dimension,
        recipes that need two give way to their autoregressive kin.
      prefix: prefix of the parameters' names: ``{prefix}_flow...``, ``{prefix}_affine...`` and,
        held where it was found, the start's ``{prefix}_loc`` and ``{prefix}_scale``.
      init_loc_fn: where to start instead, one of NumPyro's initialization strategies; without
        one, Pathfinder.
      init_scale: standard deviations around ``init_loc_fn``'s values, in unconstrained space.
      path_derivative: whether gradients leave out the score of the flow's own parameters, which
        has mean zero ("sticking the landing", Roeder, Wu & Duvenaud 2017). Their variance then
        vanishes as the guide becomes exact; each costs an inverse of the flow more. For an ELBO:
        in the gradient of :class:`~numpyro.infer.RenyiELBO` the score has another mean.
      create_plates: as in :class:`~numpyro.infer.autoguide.AutoGuide`.
      **flow_options: passed to the recipe or function, such as ``num_layers=4``.

    Raises:
      ValueError: for an option out of range; when the guide first runs, if the flow has another
        number of dimensions than the model, or the model has discrete latent variables.
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

    # NumPyro's, which has no types.
    prototype_trace: Any
    _init_locs: dict[str, Array]
    _potential_fn: Callable[..., Any]

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
        if not (isinstance(flow, Flow) or is_factory(flow)):
            raise TypeError(
                "AutoFlow: `flow` must be a recipe such as flowdists.NSF, a function (key, "
                f"event_shape) that returns a Flow, or a Flow; got {type(flow).__name__}"
            )
        if isinstance(flow, Flow) and flow_options:
            raise TypeError(
                f"AutoFlow: options {sorted(flow_options)} were given, but `flow` is built already"
            )
        self._flow = flow
        self._flow_options = flow_options
        self._init_scale = _check.positive("AutoFlow", "init_scale", init_scale)
        self._path_derivative = path_derivative
        self._guide_start: Callable[[Sequence[str]], Start] | None = None
        self._finds_start = init_loc_fn is None
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
        """A guide that starts as a trained Gaussian one, with the same ELBO.

        Args:
          guide: an AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal,
            AutoLowRankMultivariateNormal or AutoLaplaceApproximation, after its training.
          params: its parameters, as from ``svi.get_params``.
          flow: as in the constructor. One that is not the identity at first changes the start.
          **options: as in the constructor.

        Raises:
          TypeError: if the guide is another.
          ValueError: if it has not been run.
        """
        check_gaussian("AutoFlow.from_guide", guide)
        new = cls(guide.model, flow, init_loc_fn=guide.init_loc_fn, **options)
        new._guide_start = gaussian_start(guide, params)
        return new

    def with_path_derivative(self) -> AutoFlow:
        """The same guide, which shares its parameters, with ``path_derivative=True``."""
        guide = copy.copy(self)
        guide._path_derivative = True
        return guide

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        # A start is sought for the present data, not for those that the guide first saw; but
        # present ones may be traced, and must not stay.
        first = self._potential_fn
        self._potential_fn = self._potential_fn_gen(*args, **kwargs)
        try:
            if not self._has_live_supports:
                return super().__call__(*args, **kwargs)
            values = self._unpack_latent(self._sample_latent(*args, **kwargs))
            trace = run_at(self.model, args, kwargs, values)
            return {
                name: numpyro.sample(name, constrained_draw(trace[name], value))
                for name, value in values.items()
            }
        finally:
            self._potential_fn = first

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._setup_prototype(*args, **kwargs)
            self._keep_order()
            self._base = self._find_base()
            # Supports that are more than numbers may depend on other sites, or on the data: they
            # are then those of each run, not of the first one.
            supports = [self.prototype_trace[name]["fn"].support for name in self._init_locs]
            self._has_live_supports = not all(
                isinstance(leaf, int | float) for leaf in jax.tree.leaves(supports)
            )
        except Exception:
            self.prototype_trace = None  # so that a second attempt finds the same
            self._refuse_discrete(*args, **kwargs)
            raise

    def _refuse_discrete(self, *args: Any, **kwargs: Any) -> None:
        """Say so, where NumPyro asks for a package that would not help."""
        strategy = self.init_loc_fn
        strategy = strategy if isinstance(strategy, functools.partial) else strategy()
        model = handlers.substitute(handlers.seed(self.model, 0), substitute_fn=strategy)
        with handlers.block():
            sites = handlers.trace(model).get_trace(*args, **kwargs).items()
        latents = {k: v for k, v in sites if v["type"] == "sample" and not v["is_observed"]}
        discrete = [name for name, site in latents.items() if site["fn"].support.is_discrete]
        if discrete:
            raise ValueError(
                "AutoFlow: `model` must have continuous latent variables only, got discrete ones: "
                f"{discrete}; sum over their values, as numpyro.distributions.Mixture does"
            ) from None

    def _keep_order(self) -> None:
        """Concatenate the sites in the model's order.

        NumPyro's order depends on whether the key was traced and the first location valid, and the
        same parameters would mean another distribution.
        """
        sites = [name for name in self.prototype_trace if name in self._init_locs]
        self._init_locs = {name: self._init_locs[name] for name in sites}
        shapes = [jnp.shape(value) for value in self._init_locs.values()]
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1].tolist()

        def unpack(latent: Array) -> dict[str, Array]:
            parts = zip(sites, jnp.split(latent, ends), shapes, strict=True)
            return {name: jnp.reshape(part, shape) for name, part, shape in parts}

        self._init_latent = ravel(self._init_locs)
        self._unpack_latent = UnpackTransform(unpack, ravel)

    def _find_base(self) -> dist.Distribution:
        # Known values also where the guide is being traced: the base has to be one.
        with jax.ensure_compile_time_eval():
            flow = self._make_flow(jax.random.key(0))
        if not isinstance(flow, Flow):
            raise TypeError(f"AutoFlow: `flow` must give a Flow, got {type(flow).__name__}")
        if flow.event_shape != (self.latent_dim,) or flow.batch_shape:
            sites = {name: jnp.shape(value) for name, value in self._init_locs.items()}
            raise ValueError(
                f"AutoFlow: `flow` must have events of shape ({self.latent_dim},), one dimension "
                f"for each of the model's latent ones (unconstrained: {sites}), and no batch; got "
                f"event shape {flow.event_shape} and batch shape {flow.batch_shape}"
            )
        return flow.base

    def _make_flow(self, key: Array) -> Any:
        if isinstance(self._flow, Flow):
            return self._flow
        make, options = self._flow, self._flow_options
        if self.latent_dim == 1:
            make, options = for_one_dimension(make, options)
        return make(key, (int(self.latent_dim),), **options)

    def _find_start(self, key: Array) -> Start:
        # Seeded, for models that draw minibatches.
        seeded = handlers.seed(self._potential_fn, 0)
        whole = MoreRows(seeded, self._start_sizes())

        def potential(latent: Array, of: Callable[..., Array] = whole) -> Array:
            return of(self._unpack_latent(latent))

        with handlers.block():
            try:
                jax.eval_shape(potential, self._init_latent)
            except (TypeError, ValueError):  # it has been given the rows of a minibatch only
                potential = functools.partial(potential, of=seeded)
            start = jax.jit(lambda key, x: pathfinder(key, potential, x))(key, self._init_latent)
        # A model whose density is not finite anywhere on the way: as without Pathfinder.
        found = jnp.isfinite(start.loc).all() & jnp.isfinite(start.scale).all()
        width = jnp.full(self.latent_dim, self._init_scale)
        plain = Start(self._init_latent, width if start.scale.ndim == 1 else jnp.diag(width))
        return jax.tree.map(lambda x, y: jnp.where(found, x, y), start, plain)

    def _start_sizes(self) -> dict[str, int]:
        """How many elements of each subsampled plate Pathfinder sees."""
        plates = {
            name: site["args"]
            for name, site in self.prototype_trace.items()
            if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0])
        }
        # Plates may stand inside of each other.
        most = int(MAX_START_ROWS ** (1 / max(len(plates), 1)))
        return {name: min(size, max(most, num)) for name, (size, num) in plates.items()}

    def _get_start(self) -> Start | None:
        if self._guide_start is not None:
            find = functools.cache(functools.partial(self._guide_start, list(self._init_locs)))
        elif self._finds_start:
            find = functools.cache(functools.partial(self._find_start, numpyro.prng_key()))
        else:
            return None
        # As functions, so that nothing is sought where the values are substituted.
        loc = numpyro.param(f"{self.prefix}_loc", lambda _: find().loc)
        scale = numpyro.param(f"{self.prefix}_scale", lambda _: find().scale)
        return Start(jax.lax.stop_gradient(loc), jax.lax.stop_gradient(scale))

    def _get_posterior(self) -> Flow:
        flow = flow_module(
            f"{self.prefix}_flow", self._flow if isinstance(self._flow, Flow) else self._make_flow
        )
        start = self._get_start()
        if start is None:
            initial = Affine(self._init_latent, jnp.full(self.latent_dim, self._init_scale))
        else:
            initial = Affine(jnp.zeros(self.latent_dim), jnp.ones(self.latent_dim))
        layers = [flow.bijector, flow_module(f"{self.prefix}_affine", initial)]
        if start is not None:
            layers.append(start.as_layer())
        return Flow(self._base, Chain(layers))

    def _sample_latent(self, *args: Any, **kwargs: Any) -> Array:
        posterior = self._get_posterior()
        if self._path_derivative:
            posterior = _PathDerivativeFlow(posterior.base, posterior.bijector)
        site = f"_{self.prefix}_latent"
        return numpyro.sample(site, posterior, infer={"is_auxiliary": True})

    def _unpack_and_constrain(self, latent_sample: Array, params: dict[str, Any]) -> dict[str, Any]:
        # The model's own parameters are substituted, because NumPyro takes those that it is given
        # here for unconstrained ones.
        sites = self.prototype_trace.items()
        own = [name for name, site in sites if site["type"] == "param" and name in params]
        with handlers.substitute(data={name: params[name] for name in own}):
            return super()._unpack_and_constrain(latent_sample, {})

    def get_base_dist(self) -> dist.Distribution:
        """The flow's base distribution."""
        self._check_ready("get_base_dist")
        return self._base

    def get_transform(self, params: dict[str, Any]) -> Bijector:
        """The bijector from the base to the unconstrained latent variables."""
        return self.get_posterior(params).bijector

    def get_posterior(self, params: dict[str, Any]) -> Flow:
        """The flow over the unconstrained latent variables, concatenated in the model's order.

        Raises:
          ValueError: if the guide has not been run, or ``params`` lacks one of its parameters.
        """
        self._check_ready("get_posterior")

        def look_up(site: dict[str, Any]) -> Any:
            if site["type"] == "param" and site["name"] not in params:
                raise ValueError(
                    f"AutoFlow: `params` must hold {site['name']!r}, got only {sorted(params)}"
                )
            return params.get(site["name"])

        # Blocked, because inside of another model these are values, not parameters to train.
        return handlers.block(handlers.substitute(self._get_posterior, substitute_fn=look_up))()

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
          *args: the model's arguments; needed only if the guide has not been run, as after
            loading parameters in a new process, or run by a jitted function; or where
            deterministic sites are wanted for other arguments.
          sample_shape: shape of independent draws.
          **kwargs: the model's keyword arguments.

        Returns:
          Each site's draws, ``(*sample_shape, *site_shape)``.

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

    def median(
        self, params: dict[str, Any], *, key: Array | None = None, num_samples: int = 10_000
    ) -> dict[str, Array]:
        """Estimate the median of every latent variable, and of the deterministic sites.

        Args:
          params: trained parameters.
          key: PRNG key of the draws; the same one each time unless given.
          num_samples: number of draws; the error is about 1.25 standard deviations over its root.
        """
        return self.quantiles(params, 0.5, key=key, num_samples=num_samples)

    def quantiles(
        self,
        params: dict[str, Any],
        quantiles: float | Sequence[float],
        *,
        key: Array | None = None,
        num_samples: int = 10_000,
    ) -> dict[str, Array]:
        """Estimate quantiles of every latent variable, and of the deterministic sites.

        They are those of draws, because a flow has no others in closed form.

        Args:
          params: trained parameters.
          quantiles: probabilities, a number or a sequence.
          key: PRNG key of the draws; the same one each time unless given.
          num_samples: number of draws.

        Returns:
          For each site, ``(*quantiles_shape, *site_shape)``.

        Raises:
          ValueError: for a probability outside of [0, 1], or a number of draws below 1.
        """
        self._check_ready("quantiles")
        probabilities = np.asarray(quantiles, float)
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError(
                f"AutoFlow.quantiles: `quantiles` must be in [0, 1], got {quantiles!r}"
            )
        num_samples = _check.positive_int("AutoFlow.quantiles", "num_samples", num_samples)
        key = jax.random.key(0) if key is None else key
        draws = self.sample_posterior(key, params, sample_shape=(num_samples,))
        return {
            name: jnp.quantile(jnp.asarray(value, float), probabilities, 0)
            for name, value in draws.items()
        }

    def _check_ready(self, caller: str) -> None:
        if self.prototype_trace is None:
            raise ValueError(
                f"AutoFlow.{caller}: the guide has not seen its model yet; run `SVI.init`, or call "
                "`sample_posterior` with the model's arguments, first"
            )


class _PathDerivativeFlow(Flow):
    """A flow whose density does not pass gradients to its parameters, but to the draw."""

    def _log_prob(self, value: Array, intermediates: list[Any] | None) -> Array:
        frozen = Flow(self.base, jax.lax.stop_gradient(self.bijector))
        return frozen.log_prob(value)
