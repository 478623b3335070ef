"""Shift and scale: the transformers of NICE, RealNVP, MAF and Glow."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flowdists.transformers.base import Transformer

__all__ = ["Additive", "ShiftScale"]

_SCALES = ("tanh", "exp", "sigmoid")


@dataclass(frozen=True)
class ShiftScale(Transformer):
    r"""Shift and scale, :math:`y = x e^{s(r)} + t` with :math:`\log |dy/dx| = s(r)`.

    ``params[0]`` is the shift :math:`t` and ``params[1]`` the raw scale :math:`r`. The map
    :math:`s` has :math:`s(0) = 0` and is one of

    * ``"tanh"``: :math:`s = c \tanh(r / c)` with :math:`c` = ``max_log_scale``. It has unit
      slope at 0, and no network output can scale by more than :math:`e^{\pm c}`;
    * ``"exp"``: :math:`s = r`, unbounded (Dinh et al. 2017, https://arxiv.org/abs/1605.08803;
      Papamakarios et al. 2017, https://arxiv.org/abs/1705.07057);
    * ``"sigmoid"``: :math:`e^s = \sigma(r + 2) / \sigma(2)`, at most 1.14 but with no lower
      bound (Kingma and Dhariwal 2018, https://arxiv.org/abs/1807.03039, here normalized so that
      0 is the identity).

    The last two have no lower bound. Their inverse overflows when :math:`e^{-s}` does, in float32
    at :math:`s < -88`.

    >>> y, log_slope = fd.transformers.ShiftScale().forward(jnp.ones(3), jnp.zeros((2, 3)))
    >>> print(y)
    [1. 1. 1.]
    """

    scale: str = "tanh"
    max_log_scale: float = 2.0

    def __post_init__(self) -> None:
        if self.scale not in _SCALES:
            raise ValueError(f"ShiftScale: scale must be one of {_SCALES}, got {self.scale!r}")
        if not (math.isfinite(self.max_log_scale) and self.max_log_scale > 0):
            raise ValueError(
                f"ShiftScale: max_log_scale must be positive and finite, got {self.max_log_scale}"
            )

    @property
    def num_params(self) -> int:
        return 2

    def forward(self, x: ArrayLike, params: ArrayLike) -> tuple[jax.Array, jax.Array]:
        x, (shift, raw) = self._as_arrays(x, params)
        log_scale = jnp.broadcast_to(self._log_scale(raw), x.shape)
        return x * jnp.exp(log_scale) + shift, log_scale

    def inverse(self, y: ArrayLike, params: ArrayLike) -> tuple[jax.Array, jax.Array]:
        y, (shift, raw) = self._as_arrays(y, params)
        log_scale = jnp.broadcast_to(self._log_scale(raw), y.shape)
        return (y - shift) * jnp.exp(-log_scale), -log_scale

    def _log_scale(self, raw: jax.Array) -> jax.Array:
        if self.scale == "tanh":
            return self.max_log_scale * jnp.tanh(raw / self.max_log_scale)
        if self.scale == "sigmoid":
            return jax.nn.log_sigmoid(raw + 2.0) - jax.nn.log_sigmoid(2.0)
        return raw


@dataclass(frozen=True)
class Additive(Transformer):
    r"""Shift, :math:`y = x + t`, with :math:`t` = ``params[0]`` and a log-slope of 0.

    From Dinh, Krueger and Bengio 2015 (https://arxiv.org/abs/1410.8516).

    >>> y, log_slope = fd.transformers.Additive().forward(jnp.ones(3), 2 * jnp.ones((1, 3)))
    >>> print(y)
    [3. 3. 3.]
    """

    @property
    def num_params(self) -> int:
        return 1

    def forward(self, x: ArrayLike, params: ArrayLike) -> tuple[jax.Array, jax.Array]:
        x, (shift,) = self._as_arrays(x, params)
        return x + shift, jnp.zeros(x.shape, x.dtype)

    def inverse(self, y: ArrayLike, params: ArrayLike) -> tuple[jax.Array, jax.Array]:
        y, (shift,) = self._as_arrays(y, params)
        return y - shift, jnp.zeros(y.shape, y.dtype)
