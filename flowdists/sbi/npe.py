"""Neural posterior estimation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax

from flowdists import _check
from flowdists.conditional_flow import ConditionalFlow
from flowdists.recipes import NSF
from flowdists.sbi.estimation import (
    Invalid,
    Options,
    SBIResult,
    finite_rows,
    train,
    untrained,
    with_embedding,
)
from flowdists.sbi.simulator import Simulator

Array = jax.Array


def npe(
    key: Array,
    model: Callable[..., Any],
    *args: Any,
    observed: str | Sequence[str],
    latents: str | Sequence[str] | None = None,
    num_simulations: int = 10_000,
    invalid: Invalid = "error",
    flow: Callable[..., ConditionalFlow] = NSF,
    flow_options: Options | None = None,
    embedding: Any = None,
    fit_options: Options | None = None,
    **kwargs: Any,
) -> SBIResult:
    r"""Learn the posterior of a NumPyro model for all data at once, from simulations alone.

    Neural posterior estimation (NPE), in one round. The method draws parameters and data from the
    model, and fits a conditional flow :math:`q(\theta \mid x)` to them by maximum likelihood
    (Papamakarios and Murray 2016, https://arxiv.org/abs/1605.06376; with flows, Greenberg,
    Nonnenmacher and Macke 2019, https://arxiv.org/abs/1905.07488). It needs no likelihood. What it
    learns is amortized: the posterior of new data costs one pass through the network.

    The flow has the support of the prior, so that every draw lies in it. NumPyro's ``biject_to``
    maps parameters to that support. Layers of the flow standardize parameters and data.

    Args:
      key: PRNG key, for simulations, flow and fit.
      model: a NumPyro model that draws its data when it is called with these arguments.
      *args: arguments of the model.
      observed: the site, or sites, that are the data.
      latents: the latent sites of interest, by default all; the posterior averages over the others.
      num_simulations: how many draws of parameters and data to learn from.
      invalid: what to do with simulations whose data are NaN or infinite: ``"error"`` raises;
        ``"drop"`` leaves them out, and warns how many they are. Leaving them out is exact: the
        posterior given finite data is the same without them.
      flow: a recipe, or a function ``(key, event_shape, *, context_shape, support)`` that returns a
        :class:`~flowdists.ConditionalFlow`.
      flow_options: options of ``flow``. For NSF, ``autoregressive=True`` and ``residual=True`` are
        the default.
      embedding: a network, trained with the flow, that makes a vector of the data:
        :class:`~flowdists.DeepSets` for sets, an encoder for images or time series. It takes the
        data in the shape of the observed site; those of several sites, as one vector. By default
        the flow takes the vector itself.
      fit_options: options of :func:`~flowdists.fit`; ``patience=20`` is the default.
      **kwargs: keyword arguments of the model.

    Returns:
      A named tuple: ``flow``, a :class:`~flowdists.ConditionalSiteFlow` with the methods
      ``sample(key, data, sample_shape)``, ``log_prob(values, data)`` and ``condition(data)``; and
      the ``history`` of the fit.

    Raises:
      TypeError: for a model or a flow of the wrong kind.
      ValueError: for unknown sites; for latent sites that are discrete, or whose support depends on
        other variables; if the prior draws NaN; if data are NaN or infinite, unless such
        simulations are left out, or if nearly all are; for options out of range.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     rate = numpyro.sample("rate", dist.Uniform(0.5, 2.0))
    ...     numpyro.sample("x", dist.Exponential(rate).expand([10]).to_event(1))
    >>> small = {"num_layers": 1, "hidden_sizes": (8,)}
    >>> posterior, history = npe(
    ...     jax.random.key(0),
    ...     model,
    ...     observed="x",
    ...     num_simulations=500,
    ...     flow=MAF,
    ...     flow_options=small,
    ...     fit_options={"max_epochs": 2, "progress": False},
    ... )
    >>> draws = posterior.sample(jax.random.key(1), {"x": jnp.ones(10)}, (100,))
    >>> draws["rate"].shape, bool(((draws["rate"] > 0.5) & (draws["rate"] < 2.0)).all())
    ((100,), True)
    """
    caller = "npe"
    _check.one_of(caller, "invalid", invalid, get_args(Invalid))
    simulator = Simulator(model, *args, observed=observed, latents=latents, **kwargs)
    simulate_key, flow_key, fit_key = jax.random.split(_check.key(caller, key), 3)
    draws = simulator.draw(simulate_key, num_simulations)
    theta, x = finite_rows(caller, simulator, *draws, invalid)
    options = with_embedding(flow_options, embedding)
    posterior = untrained(
        caller, flow_key, flow, options, simulator.latents, simulator.data, simulator.support
    )
    return train(fit_key, posterior, theta, x, fit_options)
