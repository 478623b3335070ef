"""The steps in which a masked network can be evaluated, and which units belong to each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flowdists.networks.base import Activation, Array


@dataclass(frozen=True)
class Architecture:
    r"""The static side of a MADE: sizes, degrees, masks, and how the layers are wired.

    Everything is arranged in *levels* ``0, ..., num_levels - 1``, which are the degrees of Germain
    et al. 2015 (https://arxiv.org/abs/1502.03509). Inputs are in the order of generation, hidden
    units are sorted by level. A hidden unit of level ``m`` sees inputs of levels below ``m``; the
    parameters of an input of level ``m`` see hidden units of levels up to ``m``. So every mask is
    block triangular, and each level can be computed from the levels before it.

    If the hidden layers are wide enough, there is one level per input. In a narrow network the
    narrowest layer sets the number of levels. Inputs then share levels, as evenly as possible, and
    inputs of one level are independent of each other given the earlier ones. No other degrees keep
    more dependencies: every path from input ``j`` to parameters ``i`` needs a unit of the narrowest
    layer whose degree separates ``j`` from ``i``, and equal groups leave the fewest pairs
    unseparated. All layers use the same degrees, so that no layer loses more.

    Level 0 sees no input. With a context it has hidden units, through which the parameters of the
    first input depend on the context. Without one it has none, because they would be constants.

    Attributes:
      event_size: number of inputs.
      num_params: number of parameters for each.
      hidden_sizes: widths of the hidden layers, or of the residual blocks.
      residual: whether the hidden layers are residual blocks of two linear layers each.
      has_context: whether there is a context.
      activation: a function, or the name of one in :mod:`jax.nn`.
    """

    event_size: int
    num_params: int
    hidden_sizes: tuple[int, ...]
    residual: bool
    has_context: bool
    activation: Activation

    @property
    def num_levels(self) -> int:
        """Number of steps in which the inputs are generated."""
        return min(self.event_size, min(self.hidden_sizes) + (not self.has_context))

    @property
    def widths(self) -> tuple[int, ...]:
        """Length of the input of each linear layer."""
        if self.residual:
            return (self.event_size, *self.hidden_sizes[:1] * (2 * len(self.hidden_sizes) + 1))
        return (self.event_size, *self.hidden_sizes)

    @functools.cached_property
    def input_sizes(self) -> np.ndarray:
        """Number of inputs in each level."""
        return _share(self.event_size, self.num_levels)

    @functools.cached_property
    def unit_sizes(self) -> tuple[np.ndarray, ...]:
        """For each linear layer, how many entries of its input belong to each level."""
        return (self.input_sizes, *(self._hidden_sizes(width) for width in self.widths[1:]))

    def _hidden_sizes(self, width: int) -> np.ndarray:
        # With a single level there is no other place for the units, even without a context.
        skipped = 0 if self.has_context or self.num_levels == 1 else 1
        return np.append(np.zeros(skipped, int), _share(width, self.num_levels - skipped))

    def mask(self, index: int) -> np.ndarray:
        """The mask of linear layer ``index``, of shape ``(outputs, inputs)`` and dtype bool.

        For the last layer it is the mask for one parameter, ``(event_size, inputs)``.
        """
        source, target = (_degrees(sizes) for sizes in self._sides(index))
        if index == 0:
            return target[:, None] > source[None, :]
        return target[:, None] >= source[None, :]

    def _sides(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        targets = (*self.unit_sizes[1:], self.input_sizes)
        return self.unit_sizes[index], targets[index]

    def run(
        self,
        linear: Callable[[int, Array], Array],
        activate: Callable[[int, Array], Array],
        gate: Callable[[int, Array], Array],
        x: Any,
    ) -> Array:
        """Connect the layers, with any functions for their operations.

        Args:
          linear: ``linear(k, h)`` applies the linear layer ``k``.
          activate: ``activate(k, h)`` is the nonlinearity before linear layer ``k``.
          gate: ``gate(b, h)`` applies the gate of block ``b``.
          x: the input of the first layer.
        """
        last = len(self.widths) - 1
        h = linear(0, x)
        if self.residual:
            for block in range(last // 2):
                first, second = 2 * block + 1, 2 * block + 2
                update = linear(second, activate(second, linear(first, activate(first, h))))
                h = h + gate(block, update)
        else:
            for k in range(1, last):
                h = linear(k, activate(k, h))
        return linear(last, activate(last, h))


def _share(total: int, parts: int) -> np.ndarray:
    """Divide ``total`` units among ``parts`` levels; the first levels get the remainder."""
    return total // parts + (np.arange(parts) < total % parts)


def _degrees(sizes: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)
