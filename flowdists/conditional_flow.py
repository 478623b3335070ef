"""Flows that take a context."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from flowdists import _check
from flowdists._pytree import make_pytree_class, static
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.compose.conditioned import Conditioned
from flowdists.flow import Flow, Recipe, check_data, check_parts, title


class ConditionalFlow:
    """A flow for every context: :meth:`condition` returns an ordinary :class:`Flow`.

    Its leaves are those of the bijector and those of the base, if it has any.

    Args:
      base: a NumPyro distribution.
      bijector: a bijector with a ``context_shape``.
      recipe: how the flow was built, for :func:`~flowdists.save`.
      num_classes: the number of classes, if contexts are one-hot classes. Integer labels are then
        valid contexts too.

    Raises:
      TypeError: if ``base`` is not a NumPyro distribution, or ``bijector`` is not a bijector.
      ValueError: if the bijector takes no context.

    >>> layer = AffineCoupling(jax.random.key(0), (3,), context_shape=(2,))
    >>> flow = ConditionalFlow(StandardNormal((3,)), layer)
    >>> flow.condition(jnp.ones((5, 2))).sample(jax.random.key(1), (10,)).shape
    (10, 5, 3)
    """

    base: dist.Distribution
    bijector: Bijector
    recipe: Recipe | None = static(default=None)
    num_classes: int | None = static(default=None)

    def __init__(
        self,
        base: dist.Distribution,
        bijector: Bijector,
        *,
        recipe: Recipe | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.base = base
        self.bijector = check_parts("ConditionalFlow", base, bijector)
        self.recipe = recipe
        if self.bijector.context_shape is None:
            raise ValueError(
                "ConditionalFlow: `bijector` must have a `context_shape`, got "
                f"{self.bijector.name} without one; use Flow"
            )
        if num_classes is not None and self.bijector.context_shape != (num_classes,):
            raise ValueError(
                f"ConditionalFlow: `bijector` must take one-hot contexts of `num_classes` = "
                f"{num_classes}, got context shape {self.bijector.context_shape}"
            )
        self.num_classes = num_classes

    @property
    def context_shape(self) -> Shape:
        """Shape of one context."""
        return self.bijector.context_shape

    @property
    def event_shape(self) -> Shape:
        """Shape of one event."""
        shape = self.bijector.event_shape_out
        return self.bijector.forward_shape(self.base.event_shape) if shape is None else shape

    def condition(self, context: Array) -> Flow:
        """Return the flow given ``context``. Its batch shape is that of the context.

        Gradients flow into the context.

        Args:
          context: ``(*batch, *context_shape)``, floating point; or, for a flow with classes, labels
            of shape ``batch``. The dtype decides: ints are labels, floats are one-hot rows.

        Raises:
          TypeError: if the context is not floating point.
          ValueError: if it has another shape, is None or not finite, or a label is out of range.
            Under ``jit``, NaN and labels out of range make densities and samples NaN.
        """
        context = self.as_context("ConditionalFlow.condition", context)
        # An embedding is applied here, once for all draws and densities.
        return Flow(self.base, Conditioned(*self.bijector.resolve_context(context)))

    def as_context(self, caller: str, value: Any) -> Array:
        """``value`` as the bijector takes it: labels become one-hot, and the shape is checked.

        Args:
          caller: name of the caller, for error messages.
          value: as in :meth:`condition`.
        """
        if self.num_classes is not None and jnp.issubdtype(jnp.result_type(value), jnp.integer):
            return _one_hot(caller, jnp.asarray(value), self.num_classes)
        context = _check.context(caller, value, self.context_shape)
        if not isinstance(context, jax.core.Tracer):
            values = np.asarray(context)
            if not np.isfinite(values).all():
                found = "NaN" if np.isnan(values).any() else "infinity"
                raise ValueError(f"{caller}: `context` must be finite, got {found}")
        return context

    def data_init(self, x: Array, context: Array) -> ConditionalFlow:
        """Return the flow whose data-dependent layers are initialized from ``x``.

        Args:
          x: a batch of data, ``(batch, *event_shape)``.
          context: the context of each row, ``(batch, *context_shape)``; or labels, as in
            :meth:`condition`.

        Raises:
          TypeError: if ``x`` or the context is not floating point.
          ValueError: as in :meth:`condition`, or if ``x`` cannot be data for the bijector.
        """
        x = check_data("ConditionalFlow.data_init", x, self.bijector)
        context = self.as_context("ConditionalFlow.data_init", context)
        return self.replace(bijector=self.bijector.data_init(x, context)[0])

    def replace(self, *, base: Any = None, bijector: Bijector | None = None) -> ConditionalFlow:
        """Return the flow with another base or another bijector of the same structure."""
        return ConditionalFlow(
            self.base if base is None else base,
            self.bijector if bijector is None else bijector,
            recipe=self.recipe,
            num_classes=self.num_classes,
        )

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(Flow, name):
            raise AttributeError(
                f"a ConditionalFlow has no `{name}`: the context is missing; "
                f"use `.condition(context).{name}`"
            )
        raise AttributeError(f"a ConditionalFlow has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"{title(self)}(event_shape={self.event_shape}, context_shape={self.context_shape})"


make_pytree_class(ConditionalFlow)


def _one_hot(caller: str, labels: Array, num_classes: int) -> Array:
    valid = (labels >= 0) & (labels < num_classes)
    if not isinstance(valid, jax.core.Tracer) and not valid.all():
        raise ValueError(
            f"{caller}: `context` must hold labels from 0 to {num_classes - 1}, got "
            f"{int(labels[~valid][0])}"
        )
    return jnp.where(valid[..., None], jax.nn.one_hot(labels, num_classes), jnp.nan)
