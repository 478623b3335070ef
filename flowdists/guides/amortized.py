"""The guide whose local latent variables follow a flow given what a network makes of the datum."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro import handlers
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.initialization import init_to_uniform

from flowdists import _check, transformers
from flowdists._model_sites import Values, latent_sites, values_of
from flowdists.bijectors import Affine, Bijector, Chain, ContextElementwise
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.guides.flow_argument import FlowArgument
from flowdists.guides.layout import Layout, find_layout, layout_of
from flowdists.guides.module import flow_module, is_factory
from flowdists.guides.posterior import AmortizedPosterior, as_rows, encode
from flowdists.guides.replay import OtherRows, constrained_draw, run_at
from flowdists.guides.lifecycle import check_set_up, setting_up
from flowdists.recipes import NSF

Array = jax.Array

_ROWS_AT_ONCE = 1 << 16  # of all the draws together that are in memory
_MEANING = (
    "an event holds the unconstrained latent variables of one datum, or the global ones, and a "
    "context the encoder's output, then the global latent variables where the flow sees them"
)


class AutoAmortizedFlow(AutoGuide):
    r"""A guide for models with latent variables for every datum, for data of any size.

    .. math:: q(\theta, z \mid x) = q(\theta) \prod_i q(z_i \mid e(x_i), \theta)

    The sites inside of the data's plate are local, :math:`z_i` for each datum; they follow a
    conditional flow, whose context is the output of the encoder :math:`e` and the global latent
    variables. The latent sites outside are global, :math:`\theta`, and follow a flow of their own.
    Minibatches, by the plate's ``subsample_size``, are scaled as NumPyro scales the model.

    Both flows act on unconstrained values, concatenated, and end in a shift and scale of every
    dimension, trained; before it, the local one has a shift and scale linear in the context, so
    that it contains the Gaussian whose moments are the encoder's. The model is run anew in each
    call, so the plate's size and the data may change from call to call, and supports may depend on
    both. The likelihood is not computed for that, once compiled.

    Args:
      model: a NumPyro model, with a plate that has continuous latent sites inside.
      encoder: a network, any callable pytree with floating-point arrays; or a function ``(key)``
        that returns one. It is called under :func:`jax.vmap`, with one row of the features, of
        shape ``features.shape[1:]`` or, where that is ``()``, ``(1,)``; and returns a vector. Of
        our own networks best one with ``output_scale=1.0``.
      plate: name of the data's plate. By default, of the plates with latent sites, the only one or
        the only one that is subsampled.
      features: a function of the model's arguments that returns what the encoder sees: a row for
        every datum, ``(size, ...)``, of which the guide takes those that are in the subsample; or,
        for a model that is given minibatches, for every datum of the minibatch. The first argument
        unless given. Standardize them.
      flow: the local flow: a recipe; or a function ``(key, event_shape, context_shape=...)`` that
        returns a :class:`~flowdists.ConditionalFlow`; or a ConditionalFlow, whose context is as
        long as the encoder's output and, if it follows, the global vector together. With one latent
        dimension for each datum, a coupling recipe is replaced by an autoregressive one.
      global_flow: the same for the global latent variables, without a context.
      flow_options: passed to ``flow``, such as ``{"num_layers": 4}``.
      global_options: passed to ``global_flow``.
      condition_on_global: whether the local flow sees the global latent variables, in the units of
        the global flow's shift and scale. Without, it cannot know how they move together.
      prefix: prefix of the parameters' names: ``{prefix}_encoder...``, ``{prefix}_local_flow...``,
        ``{prefix}_local_units...``, ``{prefix}_local_affine...``, ``{prefix}_global_flow...``,
        ``{prefix}_global_affine...``.
      init_loc_fn: one of NumPyro's initialization strategies. Global latent variables start around
        its values, local ones around the mean of its values over the plate.
      init_scale: standard deviations at the start, in unconstrained space.

    Raises:
      TypeError: for an encoder, features or flow of another kind.
      ValueError: for an option out of range. When the guide first runs: for a model without local
        latent sites, with discrete ones, or whose plate has to be named; for features, an encoder's
        output or a flow of the wrong shape.

    >>> import numpyro, numpyro.distributions as dist, optax
    >>> def model(y, batch_size=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    ...     with numpyro.plate("data", len(y), subsample_size=batch_size) as rows:
    ...         x = numpyro.sample("x", dist.Normal(mean, 1.0))
    ...         numpyro.sample("y", dist.Normal(x, 0.5), obs=y[rows])
    >>> encoder = MLP(jax.random.key(0), 1, 4, hidden_sizes=(8,), output_scale=1.0)
    >>> small = {"num_layers": 1, "hidden_sizes": (8,)}
    >>> guide = AutoAmortizedFlow(
    ...     model, encoder, flow=MAF, flow_options=small, global_flow=MAF, global_options=small
    ... )
    >>> y = jax.random.normal(jax.random.key(1), (100,))
    >>> svi = numpyro.infer.SVI(model, guide, optax.adam(1e-3), numpyro.infer.Trace_ELBO())
    >>> params = svi.run(jax.random.key(2), 10, y, 20, progress_bar=False).params
    >>> draws = guide.sample_posterior(jax.random.key(3), params, y, sample_shape=(50,))
    >>> {name: value.shape for name, value in sorted(draws.items())}
    {'mean': (50,), 'x': (50, 100)}
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Any,
        *,
        plate: str | None = None,
        features: Callable[..., Any] | None = None,
        flow: Any = NSF,
        global_flow: Any = NSF,
        flow_options: Mapping[str, Any] | None = None,
        global_options: Mapping[str, Any] | None = None,
        condition_on_global: bool = True,
        prefix: str = "auto",
        init_loc_fn: Callable[..., Any] = init_to_uniform,
        init_scale: float = 0.1,
    ) -> None:
        if not callable(encoder):
            raise TypeError(
                "AutoAmortizedFlow: `encoder` must be a callable pytree, or a function (key) that "
                f"returns one; got {type(encoder).__name__}"
            )
        if not (features is None or callable(features)):
            raise TypeError(
                "AutoAmortizedFlow: `features` must be a function of the model's arguments, got "
                f"{type(features).__name__}"
            )
        caller = type(self).__name__
        self._encoder = encoder
        self._features = features
        self._flow = FlowArgument(caller, "flow", flow, flow_options, ConditionalFlow)
        self._global_flow = FlowArgument(caller, "global_flow", global_flow, global_options, Flow)
        self._plate = plate
        self._condition_on_global = condition_on_global
        self._init_scale = _check.positive(caller, "init_scale", init_scale)
        super().__init__(model, prefix=prefix, init_loc_fn=init_loc_fn)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        with setting_up(self, args, kwargs):
            super()._setup_prototype(*args, **kwargs)
            trace = self.prototype_trace
            layout = layout_of(type(self).__name__, trace, latent_sites(trace), self._plate)
            encoder = self._encoder
            if is_factory(encoder):
                with jax.ensure_compile_time_eval():
                    encoder = encoder(jax.random.key(0))
            context = jax.eval_shape(lambda: encode(encoder, self._rows(args, kwargs)))
        self._layout = layout
        self._sees_global = self._condition_on_global and layout.outside.size > 0
        self._context_size = context.shape[-1]
        if self._sees_global:
            self._context_size += layout.outside.size
        self._local_loc = layout.pack_locals(self._init_locs).mean(0)
        self._global_loc = layout.outside.pack(self._init_locs) if layout.outside.size else None

    def _rows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Array:
        """The features, ``(rows, ...)`` with at least one axis of their own."""
        if self._features is None and not args:
            raise TypeError(
                "AutoAmortizedFlow: the features are the model's first positional argument, and "
                "there is none; give `features`"
            )
        return as_rows(args[0] if self._features is None else self._features(*args, **kwargs))

    def _posterior(self) -> AmortizedPosterior:
        """The posterior, its parameters being ``numpyro.param`` sites."""
        encoder = flow_module(f"{self.prefix}_encoder", self._encoder)
        context_shape = (self._context_size,)
        units = functools.partial(
            ContextElementwise,
            transformer=transformers.ShiftScale(),
            event_shape=self._local_loc.shape,
            context_shape=context_shape,
            hidden_sizes=(),
            output_scale=1.0,  # not the identity, so that the encoder has a gradient from the start
        )
        between = flow_module(f"{self.prefix}_local_units", units)
        local_flow = self._flow_module(
            "local", self._flow, self._local_loc, between, context_shape=context_shape
        )
        global_flow = None
        if self._global_loc is not None:
            global_flow = self._flow_module("global", self._global_flow, self._global_loc)
        return AmortizedPosterior(encoder, local_flow, global_flow, self._sees_global)

    def _flow_module(
        self, name: str, flow: FlowArgument, loc: Array, *between: Bijector, **shapes: Any
    ) -> Any:
        make = flow.resolve(loc.shape, _MEANING, **shapes)
        made = flow_module(f"{self.prefix}_{name}_flow", make)
        initial = Affine(loc, jnp.full(loc.shape, self._init_scale))
        affine = flow_module(f"{self.prefix}_{name}_affine", initial)
        return made.replace(bijector=Chain([made.bijector, *between, affine]))

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """Draw from the guide, inside NumPyro's handlers.

        Args:
          *args: the model's arguments.
          **kwargs: the model's keyword arguments.

        Returns:
          Each latent site's draw; of local ones, for the data of the subsample.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
            layout = self._layout
        else:
            layout = self._current_layout(args, kwargs)
        values, plate, model = self._draw(layout, self._rows(args, kwargs))
        sites = layout.sites
        if sites is None:
            sites = run_at(model, args, kwargs, values)
        latents = {}
        # In the model's order, which NumPyro's mean-field ELBO asks for.
        for name in (name for name in sites if name in values):
            with plate if name in layout.inside.shapes else contextlib.nullcontext():
                latents[name] = numpyro.sample(name, constrained_draw(sites[name], values[name]))
        return latents

    def _current_layout(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout:
        known = self._layout
        caller = type(self).__name__
        layout = find_layout(caller, self.model, args, kwargs, known.plate, known.names)
        if (layout.outside, layout.inside, layout.dim) != (known.outside, known.inside, known.dim):
            raise ValueError(
                "AutoAmortizedFlow: only the size of the data's plate may change from call to "
                f"call; the global latent sites (unconstrained) were {known.outside.shapes} and "
                f"are {layout.outside.shapes}, those of a datum {known.inside.shapes} and are "
                f"{layout.inside.shapes}"
            )
        return layout

    def _draw(self, layout: Layout, rows: Array, whole: bool = False) -> tuple[Values, Any, Any]:
        """Unconstrained draws by site, the data's plate, and the model with its elements.

        With ``whole``, for all data that there are features for, not for a subsample.
        """
        posterior = self._posterior()
        infer = {"is_auxiliary": True}
        theta, values = None, {}
        if posterior.global_flow is not None:
            site = f"_{self.prefix}_global_latent"
            theta = numpyro.sample(site, posterior.global_flow, infer=infer)
            values = layout.outside.unpack(theta)
        has_all = len(rows) == layout.size
        num = None if whole and has_all else layout.subsample_size
        plate = numpyro.plate(layout.plate, layout.size, num, dim=layout.dim)
        with plate as indices:
            if has_all:
                rows = rows[indices]
            elif len(rows) != len(indices):
                raise ValueError(
                    "AutoAmortizedFlow: `features` must give a row for each datum of the plate "
                    f"{layout.plate!r}, {layout.size}, or of the subsample, {len(indices)}; got "
                    f"{len(rows)} rows"
                )
            context = posterior.context(rows, theta)
            # The plate's dimension is the last but -1 - dim: there the other plates are.
            context = context.reshape(len(indices), *(1,) * (-1 - layout.dim), -1)
            flow = posterior.local_flow.condition(context)
            z = numpyro.sample(f"_{self.prefix}_local_latent", flow, infer=infer)
        values |= layout.unpack_locals(z.reshape(len(indices), layout.inside.size))
        return values, plate, OtherRows(self.model, {layout.plate: indices})

    def sample_posterior(
        self,
        rng_key: Array,
        params: dict[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Array]:
        """Draw from the guide for given data, with the model's deterministic sites.

        Args:
          rng_key: PRNG key.
          params: trained parameters.
          *args: the model's arguments: those of the training, or other data. Local sites are drawn
            for all data that ``features`` gives rows for, also where the model takes a subsample.
          sample_shape: shape of independent draws.
          **kwargs: the model's keyword arguments.

        Returns:
          Each site's draws, ``(*sample_shape, *site_shape)``.
        """
        if self.prototype_trace is None:
            with handlers.seed(rng_seed=rng_key):
                self._setup_prototype(*args, **kwargs)

        def draw(key: Array) -> dict[str, Array]:
            with handlers.seed(rng_seed=key), handlers.substitute(data=params):
                layout = self._current_layout(args, kwargs)
                values, _, model = self._draw(layout, self._rows(args, kwargs), whole=True)
                trace = run_at(model, args, kwargs, values)
            return values_of(
                {k: v for k, v in trace.items() if k in values or v["type"] == "deterministic"}
            )

        num_draws = math.prod(sample_shape)
        num_rows = max(1, len(self._rows(args, kwargs)))
        at_once = max(1, min(num_draws, _ROWS_AT_ONCE // num_rows))
        keys = jax.random.split(rng_key, num_draws)
        # Compiled, what only the likelihood needs is not computed. Compiled in each call, because
        # the arguments need not be arrays, and the handlers around the call count.
        draws = jax.jit(lambda keys: jax.lax.map(draw, keys, batch_size=at_once))(keys)
        return {name: x.reshape(*sample_shape, *x.shape[1:]) for name, x in draws.items()}

    def global_posterior(self, params: dict[str, Any]) -> Flow:
        """The flow over the global latent variables, unconstrained and concatenated.

        Args:
          params: trained parameters.

        Raises:
          ValueError: if there are none, or the guide has not been run.
        """
        global_flow = self._trained("global_posterior", params).global_flow
        if global_flow is None:
            raise ValueError(
                "AutoAmortizedFlow.global_posterior: the model has no global latent variables"
            )
        return global_flow

    def local_posterior(
        self, params: dict[str, Any], rows: Array, global_latent: Array | None = None
    ) -> Flow:
        """The flow over each datum's latent variables, unconstrained and concatenated.

        Args:
          params: trained parameters.
          rows: rows of the features, ``(*batch, ...)``, of any data.
          global_latent: where the local flow sees them, the global latent variables, unconstrained
            and concatenated, ``(*batch, size)``: a draw of :meth:`global_posterior`.

        Returns:
          A flow whose batch shape is that of ``rows`` and ``global_latent`` broadcast together.

        Raises:
          ValueError: if shapes do not fit, or the guide has not been run.
        """
        posterior = self._trained("local_posterior", params)
        if self._sees_global != (global_latent is not None):
            raise ValueError(
                "AutoAmortizedFlow.local_posterior: `global_latent` must be "
                + (
                    f"given, of shape (*batch, {self._layout.outside.size})"
                    if self._sees_global
                    else "None: the local flow does not see it"
                )
            )
        return posterior.local_flow.condition(posterior.context(as_rows(rows), global_latent))

    def _trained(self, caller: str, params: dict[str, Any]) -> AmortizedPosterior:
        check_set_up(self, caller)
        return handlers.substitute(self._posterior, params)()
