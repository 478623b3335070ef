"""A conditional flow between the sites of a model: a posterior, or a likelihood."""

from __future__ import annotations

from typing import Any

import jax

from flowdists._pytree import make_pytree_class, static
from flowdists.distribution import ConditionalFlow, Flow
from flowdists.sbi.sites import Sites, Values

Array = jax.Array


class ConditionalSiteFlow:
    """A conditional flow whose events are the values of some sites, given those of others.

    A pytree whose leaves are the flow's. To keep it, :func:`~flowdists.save` the ``flow``; what is
    loaded is put back together with the sites of a :class:`~flowdists.Simulator`, as below.

    Args:
      flow: a flow of the vector of ``events``, whose contexts are those of ``contexts``.
      events: the sites whose density this is.
      contexts: the sites that it is given.

    Raises:
      ValueError: if the flow does not have their shapes.

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
        """The flow of the vector of events, an ordinary NumPyro distribution.

        Args:
          given: values ``(*batch, *site_shape)`` by site; of an only site, the value itself.

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
        """Values by site as contexts of the flow."""
        vector = self.contexts.pack(caller, given)
        return vector.reshape(*vector.shape[:-1], *self.flow.context_shape)

    def replace(self, *, flow: ConditionalFlow) -> ConditionalSiteFlow:
        """The same with another flow of these shapes."""
        return ConditionalSiteFlow(flow, self.events, self.contexts)

    def __repr__(self) -> str:
        events, contexts = (", ".join(sites.names) for sites in (self.events, self.contexts))
        return f"ConditionalSiteFlow({events} | {contexts})"


make_pytree_class(ConditionalSiteFlow)
