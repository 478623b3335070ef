"""Arithmetic that keeps what it rounds off: deep flows that undo themselves in single precision.

Every step of a flow rounds its result, and what 96 steps of a Glow lose on the way to the latents,
the way back magnifies. Within such a flow a value is therefore the sum of two floats, the result of
an operation and what rounding took from it, as in double-double arithmetic (Dekker 1971; Ogita,
Rump & Oishi 2005). Networks see the rounded value, which is the same in both directions.

The functions below take such values, or plain arrays, which they treat as anyone would. They are
safe under compilers that contract a product and a sum into one operation with a single rounding,
as XLA's do wherever they fuse the two: a product is only ever taken of factors so short that it is
exact, or where its rounding does not matter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


@functools.partial(jax.tree_util.register_dataclass, data_fields=["high", "low"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Compensated:
    """The value ``high + low``, whose sum rounds to ``high``.

    The derivative of the value is that of ``high``; ``low`` has none. Whatever moves elements
    without computing, such as a reshape, applies to both by :func:`jax.tree.map`.
    """

    high: Array
    low: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.high.shape

    @property
    def ndim(self) -> int:
        return self.high.ndim

    @property
    def dtype(self) -> Any:
        return self.high.dtype

    def astype(self, dtype: Any) -> Compensated:
        """The value in a dtype of at least as many digits."""
        return Compensated(self.high.astype(dtype), self.low.astype(dtype))


Value = Array | Compensated


def compensated(x: Value) -> Compensated:
    """``x`` with room for rounding errors."""
    return x if isinstance(x, Compensated) else Compensated(x, jnp.zeros_like(x))


def rounded(x: Value) -> Array:
    """``x`` as a plain array."""
    return x.high if isinstance(x, Compensated) else x


def carries_errors(cls: type, methods: Iterable[str]) -> bool:
    """Whether the class that defines each of the methods that ``cls`` has declares that it does.

    A subclass that overrides one is asked again: its author need not know of such values.
    """
    owners = (next((c for c in cls.__mro__ if name in c.__dict__), cls) for name in methods)
    return all(owner.__dict__.get("_carries_errors", False) for owner in owners)


def _on_values(plain: Callable[..., Array]) -> Callable[[Callable[..., Any]], Any]:
    """Make of an operation on :class:`Compensated` values one on plain arrays, too.

    Args:
      plain: the same on arrays, and the operation's derivative.
    """

    def decorate(operation: Callable[..., Compensated]) -> Callable[..., Any]:
        with_plain_derivative = jax.custom_jvp(operation)

        @with_plain_derivative.defjvp
        def derivative(primals: Any, tangents: Any) -> Any:
            x, *params = primals
            x_dot, *params_dot = tangents
            _, high_dot = jax.jvp(plain, (x.high, *params), (x_dot.high, *params_dot))
            result = with_plain_derivative(*primals)
            return result, compensated(high_dot.astype(result.dtype))

        @functools.wraps(operation)
        def on_values(x: Value, *params: Array) -> Any:
            if not isinstance(x, Compensated):
                return plain(x, *params)
            dtype = jnp.result_type(x.dtype, *params, jnp.float32)
            return with_plain_derivative(x.astype(dtype), *(p.astype(dtype) for p in params))

        return on_values

    return decorate


@_on_values(lambda x, shift: x + shift)
def shifted(x: Compensated, shift: Array) -> Compensated:
    """``x + shift``."""
    total, error = _two_sum(x.high, without_last_bit(shift))
    return _normalized(total, error + x.low)


@_on_values(lambda x, log_scale: x * jnp.exp(log_scale))
def scaled(x: Compensated, log_scale: Array) -> Compensated:
    """``x * exp(log_scale)``."""
    return _product(x, without_last_bit(jnp.exp(log_scale)))


@_on_values(lambda x, log_scale: x * jnp.exp(-log_scale))
def unscaled(x: Compensated, log_scale: Array) -> Compensated:
    """``x / exp(log_scale)``."""
    scale = without_last_bit(jnp.exp(log_scale))
    quotient = x.high / scale
    back = _product(compensated(quotient), scale)
    return _normalized(quotient, _difference(x, back) / scale)


def matmul(rows: Array, matrix: Array) -> Array:
    """``matrix`` times each row of ``(*batch, columns)``, of shape ``(*batch, rows)``.

    Accelerators multiply in fewer digits unless asked not to, and the inverse would not undo.
    """
    # As one axis: the derivative of a product with several begins with transposed copies.
    flat = rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])
    product = jnp.matmul(flat, matrix.T, precision="highest")
    return product.reshape(*rows.shape[:-1], matrix.shape[0])


@_on_values(matmul)
def linear(x: Compensated, matrix: Array) -> Compensated:
    """``matrix`` times each row of ``x``.

    The leading digits of both, few enough that sums of their products are exact, are multiplied by
    themselves (Ozaki et al. 2012); what is left is small, and so are its rounding errors.
    """
    size = matrix.shape[-1]
    num_bits = (significant_bits(x.dtype) - math.ceil(math.log2(size))) // 2
    x1, x2, x3 = _digits(x.high, num_bits)
    m1, m2, m3 = _digits(matrix, num_bits)
    x3 = x3 + x.low
    first = matmul(x1, m1)
    second = matmul(_beside(x2, x1), _beside(m1, m2))
    rest = matmul(_beside(x3, x2 + x3, x.high), _beside(m1, m2, m3))
    total, error = _two_sum(first, second)
    return _normalized(total, error + rest)


def solve(rows: Array, lower: Array, upper: Array) -> Array:
    """``(lower @ upper)^{-1}`` times each row of ``(*batch, size)``, by two triangular systems.

    Args:
      rows: the right-hand sides.
      lower: unit lower triangular, ``(size, size)``.
      upper: upper triangular, ``(size, size)``.
    """
    columns = rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1]).T
    columns = jax.scipy.linalg.solve_triangular(lower, columns, lower=True, unit_diagonal=True)
    columns = jax.scipy.linalg.solve_triangular(upper, columns, lower=False)
    return columns.T.reshape(rows.shape)


@_on_values(solve)
def linear_inverse(x: Compensated, lower: Array, upper: Array) -> Compensated:
    """The inverse of :func:`linear` with the matrix ``lower @ upper``.

    The solution is refined once, which squares its relative error.
    """
    estimate = solve(x.high, lower, upper)
    back = linear(compensated(estimate), matmul(lower, upper.T))
    return _normalized(*_two_sum(estimate, solve(_difference(x, back), lower, upper)))


def _product(x: Compensated, factor: Array) -> Compensated:
    """``x * factor``, element by element."""
    factor = jnp.broadcast_to(factor, jnp.broadcast_shapes(x.shape, factor.shape))
    x1, f1 = _leading(x.high), _leading(factor)
    x2, f2 = x.high - x1, factor - f1
    middle, error = _two_sum(x1 * f2, x2 * f1)  # all products are exact
    total = _normalized(x1 * f1, middle)
    return _normalized(total.high, total.low + (error + (x2 * f2 + factor * x.low)))


def _difference(x: Compensated, y: Compensated) -> Array:
    """``x - y`` of two values close to each other."""
    return ((x.high - y.high) - y.low) + x.low


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """``a + b`` and its rounding error (Knuth 1969)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _normalized(high: Array, low: Array) -> Compensated:
    """``high + low`` with its rounding error, where ``low`` is the smaller one (Dekker 1971)."""
    total = high + low
    return Compensated(total, low - (total - high))


def _leading(x: Array) -> Array:
    """``x`` to so few digits that a product of two such numbers is exact."""
    info = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(x, info.nexp, (info.nmant - 1) // 2)


def without_last_bit(x: Array) -> Array:
    """``x`` but for its last bit: a number that surely was rounded.

    A product that the compiler contracts into the sum it goes to was not, and the two directions of
    a layer need not be compiled alike.
    """
    info = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(x, info.nexp, info.nmant - 1)


def _digits(x: Array, num_bits: int) -> tuple[Array, Array, Array]:
    """``x`` as a sum of ``num_bits`` leading bits, as many following ones, and the rest.

    All elements of a row have the same places, counted from those of the largest, so that sums of
    products are exact.
    """
    info = jnp.finfo(x.dtype)
    power = jax.lax.reduce_precision(jnp.abs(x).max(-1, keepdims=True), info.nexp, 0)
    power = jnp.clip(
        power, 2.0 ** (info.minexp + info.nmant), 2.0 ** (info.maxexp - info.nmant - 3)
    )
    # Added and subtracted, it cuts off all below 2**(1 - num_bits) of the power of two. Only sums
    # are rounded: not every device divides, or takes powers, exactly.
    cut = power * (1.5 * 2.0 ** (info.nmant + 1 - num_bits))
    first = (x + cut) - cut
    cut = cut * 2.0**-num_bits
    second = ((x - first) + cut) - cut
    return first, second, (x - first) - second


def _beside(*parts: Array) -> Array:
    return jnp.concatenate(parts, axis=-1)


def significant_bits(dtype: Any) -> int:
    """How many bits a number of a floating-point dtype has, the leading one included."""
    return int(jnp.finfo(dtype).nmant) + 1
