"""What networks share: the rule for pytrees, the linear layer, activations by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp

from flowdists._pytree import describe, make_pytree_class, static

Array = jax.Array
Activation = str | Callable[[Array], Array]


@dataclass_transform(eq_default=False, field_specifiers=(static,))
class Network:
    """A callable pytree: its annotated fields are leaves (parameters) or ``static()``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        make_pytree_class(cls)

    def __repr__(self) -> str:
        return describe(self)


class Linear(Network):
    """``x @ weight + bias`` over the last axis.

    Weights start as Glorot normal draws times ``scale``, the bias at zero. With ``scale=0`` the
    output is zero and nothing is drawn, because JAX compiles a program for every shape of draws.
    """

    weight: Array
    bias: Array

    def __init__(self, key: Array, in_size: int, out_size: int, scale: float = 1.0) -> None:
        deviation = scale * math.sqrt(2.0 / max(in_size + out_size, 1))
        shape = (in_size, out_size)
        self.weight = deviation * jax.random.normal(key, shape) if scale else jnp.zeros(shape)
        self.bias = jnp.zeros(out_size)

    def __call__(self, x: Array) -> Array:
        return x @ self.weight + self.bias


def resolve_activation(activation: Activation) -> Callable[[Array], Array]:
    """The function of :mod:`jax.nn` with this name; a function is returned as it is.

    Raises:
      ValueError: if the name is unknown.
    """
    if callable(activation):
        return activation
    function = getattr(jax.nn, activation, None) if isinstance(activation, str) else None
    if not callable(function):
        raise ValueError(
            f"`activation` must be a function or the name of one in jax.nn, got {activation!r}"
        )
    return function
