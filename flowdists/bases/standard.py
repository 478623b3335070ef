"""Base distributions without leaves, and what a flow asks of any base."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from flowdists import _check

Array = jax.Array
Shape = tuple[int, ...]


class _Standard(dist.Distribution):
    """A distribution without parameters: a pytree without leaves."""

    pytree_data_fields = ()

    @property
    def has_rsample(self) -> bool:
        return True

    def rsample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw; the draws do not depend on any parameter."""
        return self.sample(key, sample_shape)


class StandardNormal(_Standard):
    """Independent standard normals over an event of any shape. A pytree without leaves.

    Args:
      event_shape: shape of one event.
      batch_shape: shape of a batch of events.

    >>> StandardNormal((3,)).log_prob(jax.numpy.zeros((5, 3))).shape
    (5,)
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        batch_shape: Sequence[int] = (),
        *,
        validate_args: bool | None = None,
    ) -> None:
        shape = _check.shape("StandardNormal", "event_shape", event_shape)
        super().__init__(tuple(batch_shape), shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return _independent(constraints.real, len(self.event_shape))

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw ``(*sample_shape, *batch_shape, *event_shape)``."""
        return jax.random.normal(key, self.shape(tuple(sample_shape)))

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, of shape ``(*sample_shape, *batch_shape)``."""
        axes = _event_axes(self)
        constant = 0.5 * math.prod(self.event_shape) * math.log(2 * math.pi)
        return -0.5 * jnp.square(value).sum(axes) - constant

    @property
    def mean(self) -> Array:
        return jnp.zeros(self.shape())

    @property
    def variance(self) -> Array:
        return jnp.ones(self.shape())

    def expand(self, batch_shape: Sequence[int]) -> StandardNormal:
        """The same base with another batch shape."""
        return StandardNormal(self.event_shape, _expanded(self, batch_shape))


class StandardUniform(_Standard):
    """Independent uniforms on ``(low, high)`` over an event of any shape, without leaves.

    The density outside is zero.

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
        shape = _check.shape("StandardUniform", "event_shape", event_shape)
        super().__init__(tuple(batch_shape), shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return _independent(constraints.interval(self.low, self.high), len(self.event_shape))

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw ``(*sample_shape, *batch_shape, *event_shape)``."""
        shape = self.shape(tuple(sample_shape))
        return jax.random.uniform(key, shape, minval=self.low, maxval=self.high)

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, of shape ``(*sample_shape, *batch_shape)``; ``-inf`` outside."""
        value = jnp.asarray(value)
        log_density = jnp.where(
            (value < self.low) | (value > self.high), -jnp.inf, -math.log(self.high - self.low)
        )
        log_density = jnp.where(jnp.isnan(value), jnp.nan, log_density)
        return log_density.astype(value.dtype).sum(_event_axes(self))

    @property
    def mean(self) -> Array:
        return jnp.full(self.shape(), 0.5 * (self.low + self.high))

    @property
    def variance(self) -> Array:
        return jnp.full(self.shape(), (self.high - self.low) ** 2 / 12)

    def expand(self, batch_shape: Sequence[int]) -> StandardUniform:
        """The same base with another batch shape."""
        return StandardUniform(self.event_shape, self.low, self.high, _expanded(self, batch_shape))


class StandardLogistic(_Standard):
    """Independent standard logistics over an event of any shape. A pytree without leaves.

    Their sigmoid is uniform on (0, 1).

    Args:
      event_shape: shape of one event.
      batch_shape: shape of a batch of events.

    >>> from flowdists.bases import StandardLogistic
    >>> print(StandardLogistic((2,)).log_prob(jnp.zeros(2)))
    -2.7725887
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        batch_shape: Sequence[int] = (),
        *,
        validate_args: bool | None = None,
    ) -> None:
        shape = _check.shape("StandardLogistic", "event_shape", event_shape)
        super().__init__(tuple(batch_shape), shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return _independent(constraints.real, len(self.event_shape))

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw ``(*sample_shape, *batch_shape, *event_shape)``."""
        return jax.random.logistic(key, self.shape(tuple(sample_shape)))

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, of shape ``(*sample_shape, *batch_shape)``."""
        log_density = jax.nn.log_sigmoid(value) + jax.nn.log_sigmoid(-value)
        return log_density.sum(_event_axes(self))

    @property
    def mean(self) -> Array:
        return jnp.zeros(self.shape())

    @property
    def variance(self) -> Array:
        return jnp.full(self.shape(), math.pi**2 / 3)

    def expand(self, batch_shape: Sequence[int]) -> StandardLogistic:
        """The same base with another batch shape."""
        return StandardLogistic(self.event_shape, _expanded(self, batch_shape))


def make_base(caller: str, base: Any, event_shape: Shape) -> dist.Distribution:
    """Resolve a recipe's ``base`` for events of ``event_shape``.

    Args:
      caller: the name of the recipe, for error messages.
      base: None for a standard normal; or a NumPyro distribution whose event has ``event_shape``,
        or whose batch and event together have it, or which broadcasts to it (a scalar one, say).
      event_shape: shape of one event.

    Raises:
      TypeError: if it is not a NumPyro distribution.
      ValueError: if its shape does not fit.
    """
    if base is None:
        return StandardNormal(event_shape)
    if not isinstance(base, dist.Distribution):
        raise TypeError(
            f"{caller}: `base` must be a numpyro distribution or None, got {type(base).__name__}"
        )
    if base.event_shape == event_shape:
        return base
    try:
        fits = jnp.broadcast_shapes(base.shape(), event_shape) == event_shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{caller}: `base` must have events of shape {event_shape}, got batch shape "
            f"{base.batch_shape} and event shape {base.event_shape}"
        )
    batch_shape = event_shape[: len(event_shape) - base.event_dim]
    return base.expand(batch_shape).to_event(len(batch_shape))


@functools.singledispatch
def temper(base: dist.Distribution, temperature: Any) -> dist.Distribution:
    """``base`` with its scale multiplied by ``temperature``; 1 leaves it as it is.

    Raises:
      TypeError: if the base has no scale.
    """
    raise TypeError(
        "with_temperature: the base must have a scale (normal, Student-t, Laplace, ...), got "
        f"{type(base).__name__}"
    )


@temper.register
def _(base: StandardNormal, temperature: Any) -> dist.Distribution:
    # Unvalidated, because a temperature of 0, all samples at the mode, is a limit worth having.
    normal = dist.Normal(0.0, temperature, validate_args=False)
    return normal.expand(base.shape()).to_event(base.event_dim)


@temper.register
def _(base: StandardLogistic, temperature: Any) -> dist.Distribution:
    logistic = dist.Logistic(0.0, temperature, validate_args=False)
    return logistic.expand(base.shape()).to_event(base.event_dim)


@temper.register(dist.Normal)
@temper.register(dist.StudentT)
@temper.register(dist.Laplace)
@temper.register(dist.Logistic)
@temper.register(dist.Cauchy)
@temper.register(dist.Gumbel)
def _(base: Any, temperature: Any) -> dist.Distribution:
    arguments = base.get_args()
    arguments["scale"] = arguments["scale"] * temperature
    return type(base)(**arguments, validate_args=False)


@temper.register(dist.Independent)
def _(base: Any, temperature: Any) -> dist.Distribution:
    return temper(base.base_dist, temperature).to_event(base.reinterpreted_batch_ndims)


@temper.register(dist.ExpandedDistribution)
def _(base: Any, temperature: Any) -> dist.Distribution:
    return temper(base.base_dist, temperature).expand(base.batch_shape)


@temper.register(dist.MultivariateNormal)
def _(base: Any, temperature: Any) -> dist.Distribution:
    scale_tril = base.scale_tril * temperature
    return dist.MultivariateNormal(base.loc, scale_tril=scale_tril, validate_args=False)


class DistraxBase(distrax.Distribution):
    """A NumPyro distribution in distrax's interface, as the base of a ``distrax.Transformed``."""

    def __init__(self, base: dist.Distribution) -> None:
        self._base = base

    @property
    def event_shape(self) -> Shape:
        return self._base.event_shape

    @property
    def batch_shape(self) -> Shape:
        return self._base.batch_shape

    def _sample_n(self, key: Array, n: int) -> Array:
        return self._base.sample(key, (n,))

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats."""
        return self._base.log_prob(value)


def as_distrax(base: dist.Distribution) -> distrax.Distribution:
    """``base`` as a distrax distribution, batched as it is.

    distrax draws the base at its own batch shape, so that it has to be that of the flow.
    """
    if isinstance(base, StandardNormal):
        shape = base.shape()
        normal = distrax.Normal(jnp.zeros(shape), jnp.ones(shape))
        return distrax.Independent(normal, base.event_dim)
    return DistraxBase(base)


def _event_axes(base: dist.Distribution) -> tuple[int, ...]:
    return tuple(range(-base.event_dim, 0))


def _independent(constraint: constraints.Constraint, event_ndims: int) -> constraints.Constraint:
    return constraints.independent(constraint, event_ndims) if event_ndims else constraint


def _expanded(base: dist.Distribution, batch_shape: Sequence[int]) -> Shape:
    target = tuple(batch_shape)
    try:
        extends = jnp.broadcast_shapes(base.batch_shape, target) == target
    except ValueError:
        extends = False
    if not extends:
        raise ValueError(f"expand: `batch_shape` must extend {base.batch_shape}, got {target}")
    return target
