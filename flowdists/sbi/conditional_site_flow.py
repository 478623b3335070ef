"""A conditional flow between the sites of a model: a posterior or a likelihood."""

from __future__ import annotations

from typing import Any

import jax

from flowdists._model_sites import Values
from flowdists._pytree import make_pytree_class, static
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.sbi.sites import Sites

Array = jax.Array


class ConditionalSiteFlow:
    """A conditional flow of the values of some sites, given the values of others.

    The posterior that :func:`~flowdists.npe` or :func:`~flowdists.tsnpe` learns, and the likelihood
    that :func:`~flowdists.nle` learns. Values go in and come out as a dict by site.

    It is a pytree with the leaves of the flow. To save it, :func:`~flowdists.save` the ``flow``.
    After loading, combine the flow with the sites of a :class:`~flowdists.Simulator`, as below.

    Args:
      flow: a conditional flow whose event is the vector of ``events``, and whose context is the
        value or the vector of ``contexts``.
      events: the sites whose density this is.
      contexts: the sites that the density is given.

    Raises:
      ValueError: if the shapes of the flow do not fit the sites.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    ...     numpyro.sample("x", dist.Normal(loc, 1.0).expand([2]).to_event(1))
    >>> simulator = Simulator(model, observed="x")
    >>> flow = MAF(jax.random.key(0), (1,), context_shape=(2,), num_layers=1, hidden_sizes=(8,))
    >>> posterior = ConditionalSiteFlow(flow, simulator.latents, simulator.data)
    >>> posterior.log_prob({"loc": 0.5}, {"x": jnp.zeros((7, 2))}).shape
    (7,)
    """

    flow: ConditionalFlow
    events: Sites = static()
    contexts: Sites = static()

    def __init__(self, flow: ConditionalFlow, events: Sites, contexts: Sites) -> None:
        self.flow = flow
        self.events = events
        self.contexts = contexts
        if flow.event_shape != (events.size,):
            raise ValueError(
                f"ConditionalSiteFlow: `flow` must have events of shape ({events.size},), got "
                f"{flow.event_shape}"
            )
        if flow.context_shape not in (contexts.shape, (contexts.size,)):
            raise ValueError(
                f"ConditionalSiteFlow: `flow` must take contexts of shape {contexts.shape}, got "
                f"{flow.context_shape}"
            )

    def condition(self, given: Any) -> Flow:
        """The density of the vector of events, as a NumPyro distribution.

        Args:
          given: values ``(*batch, *site_shape)`` by site; or the value itself, if there is only one
            site.

        Returns:
          A :class:`~flowdists.Flow` with batch shape ``batch``.

        Raises:
          ValueError: if a site is missing, has another shape, or is NaN.
        """
        return self.flow.condition(self.context("ConditionalSiteFlow.condition", given))

    def sample(self, key: Array, given: Any, sample_shape: tuple[int, ...] = ()) -> Values:
        """Draw values by site, each ``(*sample_shape, *batch, *site_shape)``.

        Args:
          key: PRNG key.
          given: as in :meth:`condition`.
          sample_shape: shape of independent draws.
        """
        return self.events.unpack(self.condition(given).sample(key, sample_shape))

    def log_prob(self, values: Any, given: Any) -> Array:
        """Log-density in nats of values by site, ``(*sample_shape, *batch)``."""
        return self.condition(given).log_prob(
            self.events.pack("ConditionalSiteFlow.log_prob", values)
        )

    def context(self, caller: str, given: Any) -> Array:
        """The contexts of the flow that values by site stand for."""
        vector = self.contexts.pack(caller, given)
        return vector.reshape(*vector.shape[:-1], *self.flow.context_shape)

    def replace(self, *, flow: ConditionalFlow) -> ConditionalSiteFlow:
        """A copy with another flow of the same shapes."""
        return ConditionalSiteFlow(flow, self.events, self.contexts)

    def __repr__(self) -> str:
        events, contexts = (", ".join(sites.names) for sites in (self.events, self.contexts))
        return f"ConditionalSiteFlow({events} | {contexts})"


make_pytree_class(ConditionalSiteFlow)
