"""One transformer after another."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from flowdists.transformers.base import Transformer, check_transformer

__all__ = ["Compose"]


@dataclass(frozen=True)
class Compose(Transformer):
    r"""Several transformers in a row, :math:`y = f_n(\dots f_1(x))`, from base to data.

    The parameters are those of the parts, one part after another; log-slopes add up. A spline
    followed by a shift and scale has a flexible shape in an interval, and reaches every value.

    Args:
      parts: transformers; the domain of each is the codomain of the one before.

    Raises:
      TypeError: if one of them is not a transformer.
      ValueError: if there are none, or domain and codomain of neighbours differ.

    >>> parts = (fd.RationalQuadratic(4), fd.transformers.ShiftScale())
    >>> transformer = fd.transformers.Compose(parts)
    >>> transformer.num_params
    13
    """

    parts: tuple[Transformer, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("Compose: `parts` must hold at least one transformer")
        for part in self.parts:
            check_transformer("Compose", part)
        for first, second in zip(self.parts, self.parts[1:], strict=False):
            if first.codomain != second.domain:
                raise ValueError(
                    f"Compose: {second} takes {second.domain}, but {first} before it maps onto "
                    f"{first.codomain}"
                )

    @property
    def num_params(self) -> int:
        return sum(part.num_params for part in self.parts)

    @property
    def domain(self) -> constraints.Constraint:
        return self.parts[0].domain

    @property
    def codomain(self) -> constraints.Constraint:
        return self.parts[-1].codomain

    def forward(self, x: ArrayLike, params: ArrayLike) -> tuple[jax.Array, jax.Array]:
        x, params = self._as_arrays(x, params)
        log_slope = jnp.zeros_like(x)
        for part, own in zip(self.parts, self._split(params), strict=True):
            x, part_log_slope = part.forward(x, own)
            log_slope += part_log_slope
        return x, log_slope

    def inverse(self, y: ArrayLike, params: ArrayLike) -> tuple[jax.Array, jax.Array]:
        y, params = self._as_arrays(y, params)
        log_slope = jnp.zeros_like(y)
        for part, own in zip(self.parts[::-1], self._split(params)[::-1], strict=True):
            y, part_log_slope = part.inverse(y, own)
            log_slope += part_log_slope
        return y, log_slope

    def _split(self, params: jax.Array) -> list[jax.Array]:
        """The rows of ``params`` that belong to each part."""
        parts, start = [], 0
        for part in self.parts:
            parts.append(params[start : start + part.num_params])
            start += part.num_params
        return parts
