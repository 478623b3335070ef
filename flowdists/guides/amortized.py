"""A guide for latent variables of every datum: an encoder, and a flow conditioned on its output."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpyro
from numpyro import handlers
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.initialization import init_to_uniform

from flowdists import _check
from flowdists._model_sites import latent_sites, values_of
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.guides.flow_argument import FlowArgument
from flowdists.guides.layout import layout_of
from flowdists.guides.lifecycle import at_params, check_set_up, setting_up
from flowdists.guides.posterior import (
    AmortizedPosterior,
    FlowStart,
    as_rows,
    output_size,
    posterior_module,
)
from flowdists.guides.replay import OtherRows, constrained_draw, run_at
from flowdists.recipes import NSF

Array = jax.Array

_ROWS_AT_ONCE = 1 << 16  # of all the draws together that are in memory


class AutoAmortizedFlow(AutoGuide):
    r"""A guide for models with latent variables for every datum, for data of any size.

    .. math:: q(\theta, z \mid x) = q(\theta) \prod_i q(z_i \mid e(x_i), \theta)

    The latent sites inside the plate of the data are local, :math:`z_i` for each datum. They follow
    a conditional flow, whose context is the output of the encoder :math:`e` and the global latent
    variables. The latent sites outside are global, :math:`\theta`, and follow a flow of their own.
    Minibatches, by the plate's ``subsample_size``, are scaled as NumPyro scales the model.

    Both flows act on unconstrained values, concatenated, and end in a trained shift and scale of
    every dimension. Before that, the local flow has a shift and scale linear in the context, so it
    can express the Gaussian whose moments are the encoder's output. Every call runs the model, so
    the size of the plate and the data may change from call to call, and supports may depend on
    both. Once compiled, these runs do not compute the likelihood.

    Args:
      model: a NumPyro model, with a plate that has continuous latent sites inside.
      encoder: a network, any callable pytree with floating-point arrays; or a function ``(key)``
        that returns one. It is called under :func:`jax.vmap`, with one row of the features, of
        shape ``features.shape[1:]`` or, where that is ``()``, ``(1,)``; and returns a vector. A
        network of this package works best with ``output_scale=1.0``.
      plate: the name of the plate of the data. By default, the only plate with latent sites; if
        there are several, the only one of these that is subsampled.
      features: a function of the model's arguments that returns what the encoder sees. It returns
        either a row for every datum, ``(size, ...)``, of which the guide takes those in the
        subsample; or, for a model that is given minibatches, a row for every datum of the
        minibatch. By default, the first argument. Standardize the features.
      flow: the local flow: a recipe; or a function ``(key, event_shape, context_shape=...)`` that
        returns a :class:`~flowdists.ConditionalFlow`; or a ConditionalFlow, whose context is the
        encoder's output followed by the global vector, if the flow sees it. With one latent
        dimension for each datum, an autoregressive recipe replaces a coupling recipe.
      global_flow: the same for the global latent variables, without a context.
      flow_options: passed to ``flow``, such as ``{"num_layers": 4}``.
      global_options: passed to ``global_flow``.
      condition_on_global: whether the local flow sees the global latent variables, in the units of
        the global flow's shift and scale. If not, local and global ones are independent in the
        guide.
      prefix: prefix of the parameters' names: ``{prefix}_encoder...``, ``{prefix}_local_flow...``,
        ``{prefix}_local_units...``, ``{prefix}_local_affine...``, ``{prefix}_global_flow...``,
        ``{prefix}_global_affine...``.
      init_loc_fn: one of NumPyro's initialization strategies. Global latent variables start around
        its values, local ones around the mean of its values over the plate.
      init_scale: standard deviations at the start, in unconstrained space.

    Raises:
      TypeError: if the encoder, the features or a flow have the wrong type.
      ValueError: if an option is out of range. When the guide first runs: if the model has no local
        latent sites, or discrete ones, or its plate has to be named; or if the features, the
        encoder's output or a flow have the wrong shape.

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
        caller = type(self).__name__
        if not callable(encoder):
            raise TypeError(
                f"{caller}: `encoder` must be a callable pytree, or a function (key) that returns "
                f"one; got {type(encoder).__name__}"
            )
        if not (features is None or callable(features)):
            raise TypeError(
                f"{caller}: `features` must be a function of the model's arguments, got "
                f"{type(features).__name__}"
            )
        self._caller = caller
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
            layout = layout_of(self._caller, trace, latent_sites(trace), self._plate)
            code_size = output_size(self._caller, self._encoder, self._rows(args, kwargs))
        self._layout = layout
        local_loc = layout.pack_locals(self._init_locs).mean(0)
        global_start = None
        if layout.outside.size:
            loc = layout.outside.pack(self._init_locs)
            global_start = FlowStart(self._global_flow, loc, self._init_scale)
        self._posterior = functools.partial(
            posterior_module,
            self._caller,
            self.prefix,
            self._encoder,
            code_size,
            FlowStart(self._flow, local_loc, self._init_scale),
            global_start,
            self._condition_on_global,
        )

    def _rows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Array:
        """The features, ``(rows, ...)`` with at least one more axis."""
        if self._features is None and not args:
            raise TypeError(
                f"{self._caller}: the features are the model's first positional argument, and "
                "there is none; give `features`"
            )
        features = args[0] if self._features is None else self._features(*args, **kwargs)
        return as_rows(self._caller, features)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """Draw from the guide, inside NumPyro's handlers.

        Args:
          *args: the model's arguments.
          **kwargs: the model's keyword arguments.

        Returns:
          A draw of each latent site; of local sites, for the data of the subsample.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
            layout = self._layout
        else:
            layout = self._layout.again(self._caller, self.model, args, kwargs)
        values, plate, indices = self._posterior().draw(layout, self._rows(args, kwargs))
        sites = layout.sites
        if sites is None:
            model = OtherRows(self.model, {layout.plate: indices})
            sites = run_at(model, args, kwargs, values)
        latents = {}
        # In the order of the model, which NumPyro's mean-field ELBO requires.
        for name in (name for name in sites if name in values):
            with plate if name in layout.inside.shapes else contextlib.nullcontext():
                draw = constrained_draw(sites[name]["fn"], values[name])
                latents[name] = numpyro.sample(name, draw)
        return latents

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
            for all data that have features, also where the model takes a subsample.
          sample_shape: shape of independent draws.
          **kwargs: the model's keyword arguments.

        Returns:
          The draws of each site, ``(*sample_shape, *site_shape)``.
        """
        if self.prototype_trace is None:
            with handlers.seed(rng_seed=rng_key):
                self._setup_prototype(*args, **kwargs)

        def draw(key: Array) -> dict[str, Array]:
            with handlers.seed(rng_seed=key), handlers.substitute(data=params):
                layout = self._layout.again(self._caller, self.model, args, kwargs)
                rows = self._rows(args, kwargs)
                values, _, indices = self._posterior().draw(layout, rows, whole=True)
                model = OtherRows(self.model, {layout.plate: indices})
                trace = run_at(model, args, kwargs, values)
            return values_of(
                {k: v for k, v in trace.items() if k in values or v["type"] == "deterministic"}
            )

        num_draws = math.prod(sample_shape)
        num_rows = max(1, len(self._rows(args, kwargs)))
        at_once = max(1, min(num_draws, _ROWS_AT_ONCE // num_rows))
        keys = jax.random.split(rng_key, num_draws)
        # A compiled program leaves out what only the likelihood needs. Each call compiles anew,
        # because the arguments need not be arrays, and handlers around the call have an effect.
        draws = jax.jit(lambda keys: jax.lax.map(draw, keys, batch_size=at_once))(keys)
        return {name: x.reshape(*sample_shape, *x.shape[1:]) for name, x in draws.items()}

    def global_posterior(self, params: dict[str, Any]) -> Flow:
        """The flow over the global latent variables, unconstrained and concatenated.

        Args:
          params: trained parameters.

        Raises:
          ValueError: if there are none, the guide has not been run, or ``params`` lacks one of its
            parameters.
        """
        global_flow = self._trained("global_posterior", params).global_flow
        if global_flow is None:
            raise ValueError(
                f"{self._caller}.global_posterior: the model has no global latent variables"
            )
        return global_flow

    def local_posterior(
        self, params: dict[str, Any], rows: Array, global_latent: Array | None = None
    ) -> Flow:
        """The flow over each datum's latent variables, unconstrained and concatenated.

        Args:
          params: trained parameters.
          rows: rows of the features of any data, ``(rows, ...)``.
          global_latent: the global latent variables, unconstrained and concatenated,
            ``(*batch, size)``: a draw from :meth:`global_posterior`. None where the local flow does
            not see them.

        Returns:
          A flow whose batch shape is ``(rows,)`` broadcast with ``batch``.

        Raises:
          ValueError: if shapes do not fit, the guide has not been run, or ``params`` lacks one of
            its parameters.
        """
        posterior = self._trained("local_posterior", params)
        if posterior.sees_global != (global_latent is not None):
            wanted = "None: the local flow does not see it"
            if posterior.sees_global:
                wanted = f"given, of shape (*batch, {self._layout.outside.size})"
            raise ValueError(f"{self._caller}.local_posterior: `global_latent` must be {wanted}")
        rows = as_rows(self._caller, rows)
        return posterior.local_flow.condition(posterior.context(rows, global_latent))

    def _trained(self, method: str, params: dict[str, Any]) -> AmortizedPosterior:
        check_set_up(self, method)
        return at_params(self, self._posterior, params)
