"""The loss that `fit` minimizes by default."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow

Array = jax.Array


def negative_log_likelihood(
    flow: Flow | ConditionalFlow,
    x: Array,
    context: Array | None = None,
    weights: Array | None = None,
) -> Array:
    """The mean of ``-weights * log_prob(x)``, in nats: with weights of mean one, a weighted mean.

    The weights are not normalized here. :func:`~flowdists.fit` scales them to mean one over all
    rows, so that the mean over a minibatch is an unbiased estimate of that over all rows.

    Args:
      flow: a flow; a :class:`~flowdists.ConditionalFlow` needs the context.
      x: ``(n, *event_shape)``.
      context: ``(n, *context_shape)`` for a conditional flow, else None.
      weights: ``(n,)``, or None for ones. A row of weight zero contributes zero.

    Returns:
      A scalar.

    >>> flow = Flow(StandardNormal((1,)), Affine(jnp.zeros(1), jnp.ones(1)))
    >>> print(negative_log_likelihood(flow, jnp.zeros((5, 1))))
    0.9189...
    """
    distribution = flow if context is None else flow.condition(context)
    losses = -distribution.log_prob(x)
    if weights is None:
        return losses.mean()
    # Zero times an infinite loss would be NaN.
    return jnp.where(weights > 0, weights * losses, 0.0).mean()
