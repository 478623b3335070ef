"""Standard distributions: independent elements, no parameters, pytrees without leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from flowdists import _check

Array = jax.Array
Shape = tuple[int, ...]


class Standard(dist.Distribution):
    """Independent elements of one distribution without parameters, over an event of any shape.

    Subclasses define ``sample``, ``log_prob``, ``mean`` and ``variance``.

    Args:
      event_shape: shape of one event.
      batch_shape: shape of a batch of events.
    """

    element_support: constraints.Constraint = constraints.real

    def __init__(
        self,
        event_shape: Sequence[int],
        batch_shape: Sequence[int] = (),
        *,
        validate_args: bool | None = None,
    ) -> None:
        shape = _check.shape(type(self).__name__, "event_shape", event_shape)
        super().__init__(tuple(batch_shape), shape, validate_args=validate_args)

    def options(self) -> dict[str, Any]:
        """The arguments of the constructor, in a form that JSON can hold."""
        return {"event_shape": self.event_shape, "batch_shape": self.batch_shape}

    @property
    def support(self) -> constraints.Constraint:
        if not self.event_shape:
            return self.element_support
        return constraints.independent(self.element_support, self.event_dim)

    def expand(self, batch_shape: Sequence[int]) -> Standard:
        """The same distribution with another batch shape, to which the current one broadcasts."""
        target = tuple(batch_shape)
        if not broadcasts_to(self.batch_shape, target):
            raise ValueError(f"expand: `batch_shape` must extend {self.batch_shape}, got {target}")
        return type(self)(**{**self.options(), "batch_shape": target})

    def _sum_over_event(self, log_density: Array) -> Array:
        return log_density.sum(tuple(range(-self.event_dim, 0)))


def broadcasts_to(shape: Shape, target: Shape) -> bool:
    """Whether arrays of ``shape`` broadcast to ``target``."""
    try:
        return jnp.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


class StandardNormal(Standard):
    """Independent standard normals over an event of any shape. A pytree without leaves.

    Args:
      event_shape: shape of one event.
      batch_shape: shape of a batch of events.

    >>> StandardNormal((3,)).log_prob(jax.numpy.zeros((5, 3))).shape
    (5,)
    """

    family = dist.Normal

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw ``(*sample_shape, *batch_shape, *event_shape)``."""
        return jax.random.normal(key, self.shape(tuple(sample_shape)))

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, of shape ``(*sample_shape, *batch_shape)``."""
        constant = 0.5 * math.prod(self.event_shape) * math.log(2 * math.pi)
        return -0.5 * self._sum_over_event(jnp.square(value)) - constant

    @property
    def mean(self) -> Array:
        return jnp.zeros(self.shape())

    @property
    def variance(self) -> Array:
        return jnp.ones(self.shape())


class StandardLogistic(Standard):
    """Independent standard logistics over an event of any shape. A pytree without leaves.

    The sigmoid of each element is uniform on (0, 1).

    Args:
      event_shape: shape of one event.
      batch_shape: shape of a batch of events.

    >>> from flowdists.bases import StandardLogistic
    >>> print(StandardLogistic((2,)).log_prob(jnp.zeros(2)))
    -2.7725887
    """

    family = dist.Logistic

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw ``(*sample_shape, *batch_shape, *event_shape)``."""
        return jax.random.logistic(key, self.shape(tuple(sample_shape)))

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, of shape ``(*sample_shape, *batch_shape)``."""
        return self._sum_over_event(jax.nn.log_sigmoid(value) + jax.nn.log_sigmoid(-value))

    @property
    def mean(self) -> Array:
        return jnp.zeros(self.shape())

    @property
    def variance(self) -> Array:
        return jnp.full(self.shape(), math.pi**2 / 3)


class StandardUniform(Standard):
    """Independent uniforms on ``(low, high)`` over an event of any shape. A pytree without leaves.

    The density outside of the bounds is zero.

    Args:
      event_shape: shape of one event.
      low: lower bound, a number.
      high: upper bound, a number.
      batch_shape: shape of a batch of events.

    Raises:
      ValueError: if ``low >= high``.

    >>> print(StandardUniform((2,), 0.0, 0.5).log_prob(jnp.array([0.1, 0.2])))
    1.3862944
    """

    pytree_aux_fields = ("low", "high")

    def __init__(
        self,
        event_shape: Sequence[int],
        low: float = 0.0,
        high: float = 1.0,
        batch_shape: Sequence[int] = (),
        *,
        validate_args: bool | None = None,
    ) -> None:
        if not low < high:
            raise ValueError(f"StandardUniform: `low` must be below `high`, got {low} and {high}")
        self.low, self.high = float(low), float(high)
        super().__init__(event_shape, batch_shape, validate_args=validate_args)

    def options(self) -> dict[str, Any]:
        """The arguments of the constructor, in a form that JSON can hold."""
        return {**super().options(), "low": self.low, "high": self.high}

    @property
    def element_support(self) -> constraints.Constraint:
        """The interval between the bounds."""
        return constraints.interval(self.low, self.high)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw ``(*sample_shape, *batch_shape, *event_shape)``."""
        shape = self.shape(tuple(sample_shape))
        return jax.random.uniform(key, shape, minval=self.low, maxval=self.high)

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, of shape ``(*sample_shape, *batch_shape)``; ``-inf`` outside."""
        value = jnp.asarray(value)
        outside = (value < self.low) | (value > self.high)
        log_density = jnp.where(outside, -jnp.inf, -math.log(self.high - self.low))
        log_density = jnp.where(jnp.isnan(value), jnp.nan, log_density)
        return self._sum_over_event(log_density.astype(value.dtype))

    @property
    def mean(self) -> Array:
        return jnp.full(self.shape(), 0.5 * (self.low + self.high))

    @property
    def variance(self) -> Array:
        return jnp.full(self.shape(), (self.high - self.low) ** 2 / 12)
