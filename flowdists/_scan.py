"""Flows at the sites of NumPyro's ``scan``."""

from __future__ import annotations

from typing import Any

import jax
import numpyro.distributions as dist
from numpyro.distributions import constraints

Array = jax.Array
Shape = tuple[int, ...]


class Scanned(dist.Distribution):
    """The distributions of all steps of a scan, whose leaves have the steps as first axis.

    NumPyro scores the values of all steps at once, by a distribution that it takes to broadcast,
    which layers do not.
    """

    pytree_data_fields = ("step",)

    def __init__(self, step: dist.Distribution, num_steps: int) -> None:
        self.step = step
        super().__init__((num_steps, *step.batch_shape), step.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        """That of the first step; NumPyro takes each step's own where it matters, in the scan."""
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
    """The distributions of all steps, from that of one with leaves as a scan has stacked them."""
    leaves = jax.tree.leaves(step)
    return Scanned(step, leaves[0].shape[0]) if leaves else step
