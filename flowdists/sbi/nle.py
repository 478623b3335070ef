"""Neural likelihood estimation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from flowdists import _check
from flowdists.conditional_flow import ConditionalFlow
from flowdists.recipes import NSF
from flowdists.sbi.estimation import Options, SBIResult, finite_rows, train, untrained
from flowdists.sbi.simulator import Simulator

Array = jax.Array
REMEDY = (
    "correct the model, or give it a prior under which this does not happen: without such "
    "simulations the likelihood is biased, because their number depends on the parameters"
)


def nle(
    key: Array,
    model: Callable[..., Any],
    *args: Any,
    observed: str | Sequence[str],
    latents: str | Sequence[str] | None = None,
    num_simulations: int = 10_000,
    flow: Callable[..., ConditionalFlow] = NSF,
    flow_options: Options | None = None,
    fit_options: Options | None = None,
    **kwargs: Any,
) -> SBIResult:
    r"""Learn the likelihood of a NumPyro model, from simulations alone.

    Neural likelihood estimation (NLE), in one round. The method draws parameters and data from the
    model, and fits a conditional flow :math:`q(x \mid \theta)` to them by maximum likelihood
    (Papamakarios, Sterratt and Murray 2019, https://arxiv.org/abs/1805.07226, who add rounds). At
    given parameters the flow is an ordinary distribution. Observe it in a model with any prior, for
    one observation or several, and run NUTS::

        def posterior_model(x):
            rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
            numpyro.sample("x", likelihood.condition({"rate": rate}), obs=x)

    Args:
      key: PRNG key, for simulations, flow and fit.
      model: as in :func:`~flowdists.npe`; its data must be continuous, and always finite. The
        likelihood is accurate at the parameters that this model draws.
      *args: arguments of the model.
      observed: the site, or sites, that are the data. An event of the flow is their vector.
      latents: the latent sites that the likelihood is given, by default all.
      num_simulations: how many draws of parameters and data to learn from.
      flow: a recipe, or a function ``(key, event_shape, *, context_shape)`` that returns a
        :class:`~flowdists.ConditionalFlow`. It must take ``support`` as well if the data have
        bounds in the model that do not depend on other variables: the flow gets these bounds.
      flow_options: options of ``flow``. For NSF, ``autoregressive=True`` and ``residual=True`` are
        the default.
      fit_options: options of :func:`~flowdists.fit`; ``patience=20`` is the default.
      **kwargs: keyword arguments of the model.

    Returns:
      A named tuple: ``flow``, a :class:`~flowdists.ConditionalSiteFlow` that is the density of the
      data given the parameters; and the ``history`` of the fit.

    Raises:
      TypeError: for a model or a flow of the wrong kind.
      ValueError: as in :func:`~flowdists.npe`; for discrete data.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    ...     numpyro.sample("x", dist.Normal(loc, 1.0).expand([2]).to_event(1))
    >>> likelihood, _ = nle(
    ...     jax.random.key(0),
    ...     model,
    ...     observed="x",
    ...     num_simulations=500,
    ...     flow=MAF,
    ...     flow_options={"num_layers": 1, "hidden_sizes": (8,)},
    ...     fit_options={"max_epochs": 2, "progress": False},
    ... )
    >>> likelihood.condition({"loc": jnp.zeros(7)}).batch_shape
    (7,)
    """
    caller = "nle"
    simulator = Simulator(model, *args, observed=observed, latents=latents, **kwargs)
    if simulator.discrete:
        raise ValueError(
            f"{caller}: the data must be continuous, for a density, but {simulator.discrete} are "
            "discrete; dequantize them in the model, as in numpyro.sample('y', dist.Uniform(x, x + "
            "1)), and observe that"
        )
    simulate_key, flow_key, fit_key = jax.random.split(_check.key(caller, key), 3)
    draws = simulator.draw(simulate_key, num_simulations)
    theta, x = finite_rows(caller, simulator, *draws, remedy=REMEDY)
    likelihood = untrained(
        caller,
        flow_key,
        flow,
        flow_options,
        simulator.data,
        simulator.latents,
        simulator.data_support,
    )
    return train(fit_key, likelihood, x, theta, fit_options)
