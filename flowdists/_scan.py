"""Flows at the sites of NumPyro's ``scan``."""

from __future__ import annotations

from typing import Any

import jax
import numpyro.distributions as dist
from numpyro.distributions import constraints

Array = jax.Array
Shape = tuple[int, ...]


class Scanned(dist.Distribution):
    """The distributions of all steps of a scan, with the steps as the first axis of each leaf.

    NumPyro scores the values of all steps at once, and expects the distribution to broadcast over
    the steps. Layers do not broadcast over an axis of their parameters.
    """

    pytree_data_fields = ("step",)

    def __init__(self, step: dist.Distribution, num_steps: int) -> None:
        self.step = step
        super().__init__((num_steps, *step.batch_shape), step.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        """The first step's; inside of the scan, where it matters, NumPyro uses each step's own."""
        return jax.tree.map(lambda leaf: leaf[0], self.step).support

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw ``(*sample_shape, num_steps, *batch_shape, *event_shape)``."""
        keys = jax.random.split(key, self.batch_shape[0])
        draw = jax.vmap(lambda step, key: step.sample(key, sample_shape), 0, len(sample_shape))
        return draw(self.step, keys)

    def log_prob(self, value: Array, intermediates: Any = None) -> Array:
        """Log-density in nats, ``(*sample_shape, num_steps, *batch_shape)``."""
        axis = value.ndim - len(self.shape())
        score = jax.vmap(lambda step, value: step.log_prob(value), (0, axis), axis)
        return score(self.step, value)


def scanned(step: dist.Distribution) -> dist.Distribution:
    """The distributions of all steps, from a distribution whose leaves a scan has stacked."""
    leaves = jax.tree.leaves(step)
    return Scanned(step, leaves[0].shape[0]) if leaves else step
