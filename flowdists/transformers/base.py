"""The contract of a transformer: a family of increasing maps of a scalar."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from flowdists._constraints import lift_constraint, same, within_bounds

__all__ = ["Transformer", "check_transformer", "run_within_bounds"]


class Transformer(ABC):
    r"""A family of increasing scalar maps :math:`y = f(x; \theta)`, applied element by element.

    A transformer holds static configuration only, never an array: subclasses are frozen
    dataclasses, hence hashable and comparable by value, and can be static fields of a layer.
    The parameters :math:`\theta` are given in every call, from a network or from the layer's own
    leaves. Their axis is the *first*: ``x`` of shape ``S`` takes ``params`` of shape
    ``(num_params, *S)``, where an axis of ``S`` may be 1 if its entries share their parameters.
    Each parameter is then one contiguous array, which makes the maps fast.

    Every family contains the identity, at ``params = 0``, so that a layer whose network
    outputs zeros changes nothing.

    >>> fd.transformers.ShiftScale().num_params
    2
    """

    @property
    @abstractmethod
    def num_params(self) -> int:
        """Number of parameters per scalar."""

    @property
    def domain(self) -> constraints.Constraint:
        """The set of ``x``: a constraint on a scalar."""
        return constraints.real

    @property
    def codomain(self) -> constraints.Constraint:
        """The set of ``y``: the domain, unless a subclass overrides it."""
        return self.domain

    @abstractmethod
    def forward(self, x: ArrayLike, params: ArrayLike) -> tuple[jax.Array, jax.Array]:
        r"""Return :math:`y = f(x; \theta)` and :math:`\log |dy/dx|`, both of ``x``'s shape."""

    @abstractmethod
    def inverse(self, y: ArrayLike, params: ArrayLike) -> tuple[jax.Array, jax.Array]:
        r"""Return :math:`x = f^{-1}(y; \theta)` and :math:`\log |dx/dy|`, both of ``y``'s shape."""

    def _as_arrays(self, x: ArrayLike, params: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """Check the shapes, and convert both to one floating-point dtype, at least float32.

        A network may run in bfloat16. Log-slopes are summed over dimensions and layers, so its
        eight bits are not enough for them.
        """
        x, params = jnp.asarray(x), jnp.asarray(params)
        expected = (self.num_params, *x.shape)
        matches = params.ndim == len(expected) and all(
            given in (size, 1) for given, size in zip(params.shape[1:], expected[1:], strict=True)
        )
        if not matches or params.shape[0] != self.num_params:
            raise ValueError(
                f"{type(self).__name__}: params must have shape (num_params, *x.shape) = "
                f"{expected}, got {params.shape}"
            )
        dtype = jnp.result_type(x, params, jnp.float32)
        return x.astype(dtype), params.astype(dtype)


def check_transformer(caller: str, transformer: object) -> Transformer:
    """Return ``transformer`` if it is one.

    Raises:
      TypeError: if it is not.
    """
    if not isinstance(transformer, Transformer):
        given = transformer.__name__ if isinstance(transformer, type) else repr(transformer)
        raise TypeError(f"{caller}: `transformer` must be a Transformer, got {given}")
    return transformer


def run_within_bounds(
    transformer: Transformer,
    direction: Literal["forward", "inverse"],
    value: jax.Array,
    run: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    event_ndims: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """``run(value)``, with a log-slope of ``-inf`` outside of the bounds of the transformer's side.

    A map of a set onto itself decides what it does outside of it: an angle is wrapped, for example.

    Args:
      transformer: the transformer, with its domain and codomain.
      direction: "forward" if ``value`` should be in the domain, "inverse" for the codomain.
      value: ``(*batch, *event_shape)``.
      run: returns a value and a log-slope (or log-determinant), one for each event.
      event_ndims: number of event axes.
    """
    if same(transformer.domain, transformer.codomain):
        return run(value)
    side = transformer.domain if direction == "forward" else transformer.codomain
    return within_bounds(lift_constraint(side, event_ndims), value, run)
