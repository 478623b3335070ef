"""Linear maps with cheap log-determinants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists._events import flatten_event
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Shape


class LU(Bijector):
    """``W = L U`` with unit lower triangular ``L``; ``log|det W| = sum(log diag U)``."""

    lower: Array
    upper: Array
    log_diagonal: Array

    def _set_factors(self, key: Array, size: int, start: str) -> None:
        _check.one_of(type(self).__name__, "start", start, ("identity", "rotation"))
        if start == "identity":
            self.lower = jnp.zeros(size * (size - 1) // 2)
            self.upper = jnp.zeros(size * (size - 1) // 2)
            self.log_diagonal = jnp.zeros(size)
        else:
            lower, upper = random_rotation_factors(key, size)
            self.lower = lower[np.tril_indices(size, -1)]
            self.log_diagonal = jnp.log(jnp.diagonal(upper))
            self.upper = upper[np.triu_indices(size, 1)]

    @property
    def factors(self) -> tuple[Array, Array]:
        """``L`` and ``U``, each of shape ``(size, size)``."""
        size = self.log_diagonal.shape[0]
        lower = jnp.eye(size, dtype=self.lower.dtype)
        lower = lower.at[np.tril_indices(size, -1)].set(self.lower)
        upper = jnp.diag(jnp.exp(self.log_diagonal))
        return lower, upper.at[np.triu_indices(size, 1)].set(self.upper)

    @property
    def matrix(self) -> Array:
        """``W = L U``, shape ``(size, size)``."""
        lower, upper = self.factors
        return matmul(lower, upper.T)

    @property
    def is_constant_jacobian(self) -> bool:
        return True

    def _multiply(self, rows: Array) -> Array:
        """``W`` times each row of ``(*batch, size)``."""
        return matmul(rows, self.matrix)

    def _solve(self, rows: Array) -> Array:
        """``W^{-1}`` times each row of ``(*batch, size)``, by two triangular systems."""
        lower, upper = self.factors
        columns = rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1]).T
        columns = jax.scipy.linalg.solve_triangular(lower, columns, lower=True, unit_diagonal=True)
        columns = jax.scipy.linalg.solve_triangular(upper, columns, lower=False)
        return columns.T.reshape(rows.shape)


class LULinear(LU):
    r"""``y = L U x + bias`` with unit lower triangular ``L`` and upper triangular ``U``.

    ``log|det| = sum(log diag U)``; the inverse solves two triangular systems. There is no
    permutation, so layers of one shape have one structure and can be stacked.

    Args:
      key: PRNG key; used only by the "rotation" start.
      event_shape: shape of one event; events of higher rank are flattened.
      start: "identity", or "rotation": a random orthogonal matrix. It has such factors because the
        permutation of a pivoted decomposition is dropped, and the signs of columns are flipped.

    Raises:
      TypeError: for an invalid key.
      ValueError: for an invalid shape or start.

    >>> import jax
    >>> layer = LULinear(jax.random.key(0), (3,), start="rotation")
    >>> W = layer.matrix
    >>> bool(jax.numpy.allclose(W @ W.T, jax.numpy.eye(3), atol=1e-5))
    True
    """

    bias: Array
    event_shape: Shape = static()

    def __init__(self, key: Array, event_shape: Sequence[int], *, start: str = "identity") -> None:
        key = _check.key("LULinear", key)
        self.event_shape = _check.shape("LULinear", "event_shape", event_shape)
        size = math.prod(self.event_shape)
        self._set_factors(key, size, start)
        self.bias = jnp.zeros(size)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        y = self._multiply(flatten_event(x, self.event_shape)) + self.bias
        return y.reshape(x.shape), self.log_diagonal.sum()

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        rows = self._solve(flatten_event(y, self.event_shape) - self.bias)
        return rows.reshape(y.shape), -self.log_diagonal.sum()


class Householder(Bijector):
    """An orthogonal map, the product of Householder reflections.

    From Tomczak and Welling 2016 (https://arxiv.org/abs/1611.09630). ``y = H_1 ... H_n x`` with
    ``H_i = I - 2 v_i v_i^T / |v_i|^2``; the log-determinant is 0. The reflections start in equal
    pairs, so that an even number of them starts as the identity.

    Args:
      key: PRNG key.
      event_shape: shape of one event; events of higher rank are flattened.
      num_reflections: number of reflections; by default the event's size, rounded up to an even
        number.

    Raises:
      TypeError: for an invalid key.
      ValueError: for an invalid shape or ``num_reflections < 1``.

    >>> layer = Householder(jax.random.key(0), (3,), num_reflections=1)
    >>> y = layer(jnp.array([3.0, 0.0, 4.0]))
    >>> bool(jnp.isclose(jnp.linalg.norm(y), 5.0))
    True
    """

    vectors: Array
    event_shape: Shape = static()

    def __init__(
        self, key: Array, event_shape: Sequence[int], *, num_reflections: int | None = None
    ) -> None:
        key = _check.key("Householder", key)
        self.event_shape = _check.shape("Householder", "event_shape", event_shape)
        size = math.prod(self.event_shape)
        count = size + size % 2 if num_reflections is None else num_reflections
        count = _check.positive_int("Householder", "num_reflections", count)
        pairs = jax.random.normal(key, ((count + 1) // 2, size))
        self.vectors = jnp.repeat(pairs, 2, axis=0)[:count]

    @property
    def is_constant_jacobian(self) -> bool:
        return True

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._reflect(x, reverse=True)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._reflect(y, reverse=False)

    def _reflect(self, value: Array, reverse: bool) -> tuple[Array, Array]:
        def step(flat: Array, vector: Array) -> tuple[Array, None]:
            along = (flat @ vector) / (vector @ vector)
            return flat - 2.0 * along[..., None] * vector, None

        flat = flatten_event(value, self.event_shape)
        flat = flat.astype(jnp.result_type(value, self.vectors))
        flat, _ = jax.lax.scan(step, flat, self.vectors, reverse=reverse)
        return flat.reshape(value.shape), jnp.zeros((), flat.dtype)


def random_rotation_factors(key: Array, size: int) -> tuple[Array, Array]:
    """``L`` and ``U`` of a random orthogonal ``W = L U`` with a positive diagonal of ``U``.

    ``Q = P L U`` for a random rotation ``Q``. Dropping ``P`` permutes rows, and flipping the signs
    of columns of ``U`` keeps the product orthogonal.
    """
    lower, upper = _rotation_factors(jax.random.normal(key, (size, size)))
    return lower, upper * jnp.sign(jnp.diagonal(upper))


# One matrix at a time: several batched decompositions at once, as in a jitted recipe with several
# stacks, can deadlock on a CPU with two cores, because they wait for each other's threads.
@jax.custom_batching.sequential_vmap
def _rotation_factors(draws: Array) -> tuple[Array, Array]:
    _, lower, upper = jax.scipy.linalg.lu(jnp.linalg.qr(draws)[0])
    return lower, upper


def matmul(rows: Array, matrix: Array) -> Array:
    """``matrix`` times each row of ``(*batch, columns)``, of shape ``(*batch, rows)``.

    By default accelerators multiply with fewer digits, and the inverse would not undo that.
    """
    # With a single batch axis, because the derivative for several starts with transposed copies.
    flat = rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])
    product = jnp.matmul(flat, matrix.T, precision="highest")
    return product.reshape(*rows.shape[:-1], matrix.shape[0])
