"""Flows as NumPyro distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.util import validate_sample

from flowdists import _check
from flowdists._constraints import (
    is_real,
    lift_constraint,
    mask_density,
    replace_outside,
    with_own_bounds,
)
from flowdists._events import sum_last
from flowdists._scan import scanned
from flowdists.bases import StandardLogistic, StandardNormal, StandardUniform, as_distrax, temper
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.compose.chain import as_bijector
from flowdists.bijectors.support_image import image


class Recipe(NamedTuple):
    """How a flow was built: enough to build another one of the same structure."""

    name: str
    event_shape: Shape
    options: tuple[tuple[str, Any], ...]


class Flow(dist.TransformedDistribution):
    r"""The distribution of ``bijector.forward(z)`` for ``z`` drawn from ``base``.

    A NumPyro :class:`~numpyro.distributions.TransformedDistribution`: shapes, support and handlers
    work as in NumPyro. ``log_prob`` evaluates each layer's network once, in its gradient too.

    .. math:: \log p(x) = \log p_z(f^{-1}(x)) + \log|\det \partial f^{-1}(x) / \partial x|

    Its leaves are those of the bijector, all trainable, and those of the base, if it has any.

    Args:
      base: a NumPyro distribution.
      bijector: a :class:`~flowdists.Bijector`, a NumPyro transform or a distrax bijector.
      validate_args: NumPyro's switch for argument checks.
      recipe: how the flow was built, for :func:`~flowdists.save`.

    Raises:
      TypeError: if ``base`` is not a NumPyro distribution, or ``bijector`` is not a bijector.
      ValueError: if their event shapes do not fit, or the bijector needs a context.

    >>> import jax, jax.numpy as jnp
    >>> flow = Flow(StandardNormal((2,)), Affine(jnp.zeros(2), jnp.ones(2)))
    >>> flow.sample(jax.random.key(0), (5,)).shape, flow.log_prob(jnp.zeros((5, 2))).shape
    ((5, 2), (5,))
    """

    pytree_aux_fields = ("recipe",)

    def __init__(
        self,
        base: dist.Distribution,
        bijector: Bijector,
        *,
        validate_args: bool | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        bijector = check_parts("Flow", base, bijector)
        if bijector.context_shape is not None:
            raise ValueError(
                f"Flow: `bijector` needs a context of shape {bijector.context_shape}; use "
                "ConditionalFlow(base, bijector).condition(context)"
            )
        missing = bijector.event_ndims_in - base.event_dim
        if missing > 0:
            if len(base.batch_shape) < missing:
                raise ValueError(
                    f"Flow: `base` has shape {base.shape()}, but `bijector` takes events of "
                    f"{bijector.event_ndims_in} axes"
                )
            base = base.to_event(missing)
        shape = bijector.forward_shape(base.shape())
        base_shape = bijector.inverse_shape(shape)
        if base_shape != base.shape():
            base = base.expand(base_shape[: len(base_shape) - base.event_dim])
        event_dim = bijector.event_ndims_out + base.event_dim - bijector.event_ndims_in
        self.base_dist = base
        self.transforms = [bijector]
        self.recipe = recipe
        cut = len(shape) - event_dim
        dist.Distribution.__init__(self, shape[:cut], shape[cut:], validate_args=validate_args)

    @property
    def bijector(self) -> Bijector:
        """The map from the base to the data. All its leaves are trainable float arrays."""
        return self.transforms[0]

    @property
    def base(self) -> dist.Distribution:
        """The base distribution."""
        return self.base_dist

    @property
    def support(self) -> constraints.Constraint:
        """Where the density may be positive: the image of the base's support.

        It is one of NumPyro's own constraints if the image is known to be one. In any case
        NumPyro's ``biject_to`` accepts it, so that samplers and guides stay inside.
        """
        support = self._base_support
        if jax.tree.leaves(self.base_dist):  # its bounds, if any, need not be numbers in a trace
            support = with_own_bounds(support)
        return image(support, self.bijector)

    @property
    def _base_support(self) -> constraints.Constraint:
        support = self.base_dist.support
        support = constraints.real if support is None else support
        return lift_constraint(support, self.base_dist.event_dim)

    def log_prob(self, value: Array, intermediates: list[Any] | None = None) -> Array:
        """Log-density in nats, ``(*sample_shape, *batch_shape)``; NaN for an event with a NaN.

        Args:
          value: ``(*sample_shape, *batch_shape, *event_shape)``.
          intermediates: what ``sample_with_intermediates`` returned with ``value``; the density
            then costs no evaluation of the bijector.

        Raises:
          TypeError: if ``value`` is not floating point.
          ValueError: if its events have another shape, or its batch does not broadcast.
        """
        value = _check.float_array("Flow.log_prob", "value", value)
        log_prob = self._log_prob(value, intermediates)
        # NumPyro's validation treats NaN as a value outside of the support, with density zero.
        undefined = jnp.isnan(value).any(tuple(range(-self.event_dim, 0)))
        return log_prob + jnp.where(undefined, jnp.nan, 0.0)

    @validate_sample
    def _log_prob(self, value: Array, intermediates: list[Any] | None) -> Array:
        if intermediates is not None:
            ((z, forward_log_det),) = intermediates
            return self._base_log_prob(z) - self._over_events(forward_log_det)
        z, log_det = self.bijector.inverse_and_log_det(value)
        return self._base_log_prob(z) + self._over_events(log_det)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw ``(*sample_shape, *batch_shape, *event_shape)``.

        Raises:
          TypeError: for an invalid key.
        """
        return self.bijector(self.base_dist.sample(_check.key("Flow.sample", key), sample_shape))

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Draw samples and score them, with one evaluation of each layer's network.

        Args:
          key: PRNG key.
          sample_shape: shape of independent draws.

        Returns:
          Samples ``(*sample_shape, *batch_shape, *event_shape)`` and their log-densities in nats.
        """
        key = _check.key("Flow.sample_and_log_prob", key)
        z = self.base_dist.sample(key, tuple(sample_shape))
        x, log_det = self.bijector.forward_and_log_det(z)
        return x, self._base_log_prob(z) - self._over_events(log_det)

    def _over_events(self, log_det: Array) -> Array:
        return sum_last(log_det, self.event_dim - self.bijector.event_ndims_out)

    def _base_log_prob(self, z: Array) -> Array:
        support = self._base_support
        if is_real(support):
            return self.base_dist.log_prob(z)
        # NumPyro's densities are not zero outside of their support.
        inside = support(z)
        log_prob = self.base_dist.log_prob(replace_outside(support, z, inside))
        return mask_density(support, z, inside, log_prob)

    def data_init(self, x: Array) -> Flow:
        """Return the flow whose data-dependent layers (ActNorm) are initialized from ``x``.

        Args:
          x: a batch of data, ``(batch, *event_shape)``.

        Raises:
          TypeError: if ``x`` is not floating point.
          ValueError: if ``x`` cannot be data for the bijector (grey levels of images, for example).
        """
        x = check_data("Flow.data_init", x, self.bijector)
        return self.replace(bijector=self.bijector.data_init(x)[0])

    def with_temperature(self, temperature: Any) -> Flow:
        """Return the flow with the scale of its base multiplied by ``temperature``.

        Raises:
          ValueError: if the temperature is known and negative.
          TypeError: if the base has no scale.
        """
        known = not isinstance(temperature, jax.core.Tracer)
        if known and not (jnp.ndim(temperature) == 0 and temperature >= 0):
            raise ValueError(
                f"with_temperature: `temperature` must be a number of at least 0, got {temperature}"
            )
        return self.replace(base=temper(self.base_dist, temperature))

    def replace(self, *, base: Any = None, bijector: Bijector | None = None) -> Flow:
        """Return the flow with another base or another bijector of the same structure."""
        return Flow(
            self.base_dist if base is None else base,
            self.bijector if bijector is None else bijector,
            validate_args=self._validate_args,
            recipe=self.recipe,
        )

    def expand(self, batch_shape: Sequence[int]) -> Flow:
        """Return the flow with another batch shape, to which the current one must broadcast."""
        return self.replace(base=self.base_dist.expand(tuple(batch_shape)))

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> Flow:
        """Return the flow with its last batch axes (all by default) turned into event axes."""
        return self.replace(base=self.base_dist.to_event(reinterpreted_batch_ndims))

    def to_distrax(self) -> distrax.Transformed:
        """The same distribution in distrax, around the same bijector."""
        return distrax.Transformed(as_distrax(self.base_dist), self.bijector)

    def condition(self, context: Array) -> Flow:
        """Raise an error, because an unconditional flow takes no context.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            f"Flow.condition: `context` was given (shape {jnp.shape(context)}), but this flow was "
            "built without `context_shape`"
        )

    def __repr__(self) -> str:
        return f"{title(self)}(event_shape={self.event_shape}, batch_shape={self.batch_shape})"


for _distribution in (Flow, StandardLogistic, StandardNormal, StandardUniform):
    promote_batch_shape.register(_distribution, scanned)


def check_parts(caller: str, base: Any, bijector: Any) -> Bijector:
    """``bijector`` as a :class:`~flowdists.Bijector`, if it and ``base`` can form a flow."""
    if not isinstance(base, dist.Distribution):
        raise TypeError(
            f"{caller}: `base` must be a numpyro distribution, got {type(base).__name__}"
        )
    if base.support is not None and base.support.is_discrete:
        raise ValueError(
            f"{caller}: `base` must be continuous, got the discrete {type(base).__name__}"
        )
    return as_bijector(bijector)


def check_data(caller: str, x: Any, bijector: Bijector) -> Array:
    """``x`` as a floating-point array, if it can be data for ``bijector``."""
    bijector.check_data(caller, "x", x)
    return _check.float_array(caller, "x", x)


def title(flow: Any) -> str:
    """The kind of a flow, and its recipe if it has one."""
    kind = type(flow).__name__
    return kind if flow.recipe is None else f"{kind}[{flow.recipe.name}]"
