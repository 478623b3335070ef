"""A bijector with some of its outputs observed."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import ComposeTransform

from flowdists._constraints import bounds, lift_constraint
from flowdists._events import sum_last
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.bijectors.partition import Partition
from flowdists.bijectors.support_image import Image, image


class Remainder(Bijector):
    r"""What is left of a bijector of vectors when some of its outputs are observed.

    If equally many inputs :math:`z_P` are functions of the observed outputs :math:`x_O` alone, they
    are known, and ``forward`` maps the other inputs :math:`z_R` to the other outputs
    :math:`f(z_P, z_R)_R`. Its log-determinant is

    .. math:: \log|\det \partial f(z) / \partial z|
        + \log|\det \partial z_P / \partial x_O|.

    The second term costs one derivative of the inverse for each observed element, for any number of
    vectors that share the observation. :func:`~flowdists.given` makes these layers, because it
    finds out which inputs are known.

    The observation is a leaf, so that gradients reach it. Its batch axes become batch axes of the
    map: an input is broadcast against them. If no finite inputs lead to the observation, densities
    and samples are NaN.

    Args:
      bijector: maps vectors to vectors of the same length, without a context.
      observed: ``(*batch, k)``, the values of the kept elements of ``partitions[0]``, ascending.
      partitions: a partition of the vector at the data side, then one at the base side of each
        layer, the last layer first. The kept elements are the known ones.
      pivots: for a Jacobian of known inputs by observed outputs that is triangular in some order,
        the position of the input on the diagonal for each output; else None.

    >>> flow = MAF(jax.random.key(0), (3,), order="ascending", num_layers=1)
    >>> layer = given(flow, (0,), jnp.ones((5, 1))).bijector
    >>> jax.jit(layer.forward_and_log_det)(jnp.zeros((7, 5, 2)))[1].shape
    (7, 5)
    """

    bijector: Bijector
    observed: Array
    partitions: tuple[Partition, ...] = static()
    pivots: tuple[int, ...] | None = static()

    @property
    def batch_shape(self) -> Shape:
        """The observation's batch shape."""
        return self.observed.shape[:-1]

    @property
    def event_shape(self) -> Shape:
        return (len(self.partitions[0].changed),)

    @property
    def cheap_direction(self) -> Direction:
        return self.bijector.cheap_direction

    @property
    def domain(self) -> constraints.Constraint:
        rest = np.array(self.partitions[-1].changed)
        size = self.partitions[-1].event_shape

        def take(bound: Any) -> Any:
            return bound if jnp.ndim(bound) == 0 else jnp.broadcast_to(bound, size)[rest]

        return jax.tree.map(take, lift_constraint(self.bijector.domain, 1))

    @property
    def codomain(self) -> constraints.Constraint:
        whole = self._image
        return _Section(self.domain, self) if bounds(whole) is None else whole

    @property
    def _image(self) -> constraints.Constraint:
        return image(lift_constraint(self.bijector.domain, 1), self.bijector)

    def forward_shape(self, shape: Shape) -> Shape:
        return self._broadcast(super().forward_shape(shape))

    def inverse_shape(self, shape: Shape) -> Shape:
        return self._broadcast(super().inverse_shape(shape))

    def _broadcast(self, shape: Shape) -> Shape:
        return jnp.broadcast_shapes(shape[:-1], self.batch_shape) + shape[-1:]

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        latents, log_det_observed = self._latents_and_log_det()
        # Outputs that do not depend on an impossible observation must be NaN as well.
        x = jnp.where(_is_possible(latents)[..., None], x, jnp.nan)
        y, log_det = self.bijector.forward_and_log_det(_merge(self.partitions[-1], latents, x))
        return self.partitions[0].split(y)[1], self._over_event(log_det) + log_det_observed

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        _, log_det_observed = self._latents_and_log_det()
        x, log_det = self.bijector.inverse_and_log_det(self.join(y))
        return self.partitions[-1].split(x)[1], self._over_event(log_det) - log_det_observed

    def join(self, y: Array) -> Array:
        """The whole vectors, ``(*batch, size)``; ``y`` holds the elements that are not observed."""
        return _merge(self.partitions[0], self.observed, y)

    def latents(self, observed: Array) -> Array:
        """The inputs behind ``observed``, both ``(*batch, k)``.

        A point of each layer's codomain replaces the unknown elements. The known ones do not depend
        on it, but a NaN would reach everything through masked weights.
        """
        layers = reversed(self.bijector.composition)
        for layer, (outer, inner) in zip(layers, itertools.pairwise(self.partitions), strict=True):
            prototype = jnp.zeros((*observed.shape[:-1], *outer.event_shape), observed.dtype)
            feasible = jnp.asarray(layer.codomain.feasible_like(prototype), observed.dtype)
            whole = outer.merge(observed, outer.split(feasible)[1])
            inputs, log_det = layer.inverse_and_log_det(whole)
            outside = jnp.isneginf(sum_last(log_det, 1 - layer.event_ndims_out))
            observed = jnp.where(outside[..., None], jnp.nan, inner.split(inputs)[0])
        return observed

    def _latents_and_log_det(self) -> tuple[Array, Array]:
        """The known inputs, and their log-determinant with respect to the observation."""
        observed = self.observed.astype(jnp.result_type(self.observed, jnp.float32))
        # In reverse mode, because stacks with memory="invert" have no forward mode.
        latents, pull_back = jax.vjp(self.latents, observed)
        units = jnp.eye(latents.shape[-1], dtype=latents.dtype)
        rows = jax.vmap(lambda unit: pull_back(jnp.broadcast_to(unit, latents.shape))[0])(units)
        log_det = self._log_det(jnp.moveaxis(rows, 0, -2))
        return latents, jnp.where(_is_possible(latents), log_det, jnp.nan)

    def _log_det(self, jacobian: Array) -> Array:
        """Log-determinants of matrices ``(*batch, k, k)``, known inputs by observed outputs."""
        *batch, size, _ = jacobian.shape
        if self.pivots is not None:
            diagonal = jacobian[..., np.array(self.pivots), np.arange(size)]
            return jnp.log(jnp.abs(diagonal)).sum(axis=-1)
        # One matrix at a time: several batched decompositions at once can deadlock on a CPU with
        # two cores, because they wait for each other's threads.
        flat = jacobian.reshape(math.prod(batch), size, size)
        return jax.lax.map(lambda one: jnp.linalg.slogdet(one)[1], flat).reshape(batch)

    def _over_event(self, log_det: Array) -> Array:
        return sum_last(log_det, 1 - self.bijector.event_ndims_out)


class _Section(Image):
    """The outputs of a :class:`Remainder`: together with the observation, they are in the image."""

    def __call__(self, x: Any) -> Array:
        remainder: Remainder = self.bijector
        return remainder._image(remainder.join(jnp.asarray(x, jnp.result_type(x, float))))


@biject_to.register(_Section)
def _biject_to_section(constraint: _Section) -> ComposeTransform:
    return ComposeTransform([biject_to(constraint.base_constraint), constraint.bijector])


def _is_possible(latents: Array) -> Array:
    """Whether an observation with these ``latents`` has a density."""
    return jnp.isfinite(latents).all(axis=-1)


def _merge(partition: Partition, kept: Array, changed: Array) -> Array:
    batch = jnp.broadcast_shapes(kept.shape[:-1], changed.shape[:-1])
    return partition.merge(
        *(jnp.broadcast_to(part, (*batch, part.shape[-1])) for part in (kept, changed))
    )
