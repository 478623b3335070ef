"""Glow's invertible 1×1 convolution."""

from __future__ import annotations

from collections.abc import Sequence

from flowdists import _check
from flowdists._pytree import static
from flowdists.bijectors.base import Array, Shape
from flowdists.bijectors.linear import LU
from flowdists.images.check import image_shape


class InvertibleConv1x1(LU):
    """A linear map of the channels, the same at every pixel.

    From Glow (Kingma & Dhariwal 2018, https://arxiv.org/abs/1807.03039). Its matrix is a product
    ``L U`` as in :class:`~flowdists.LULinear`, without a bias. The log-determinant is
    ``H * W * sum(log diag U)``. The inverse solves two triangular systems, and two more to refine
    the result.

    Args:
      key: PRNG key.
      event_shape: ``(H, W, C)``.
      start: "rotation", a random orthogonal matrix, or "identity".

    Raises:
      TypeError: for a key that is not a key.
      ValueError: for an event that is not an image, or an unknown start.

    >>> layer = InvertibleConv1x1(jax.random.key(0), (8, 8, 4))
    >>> y, log_det = layer.forward_and_log_det(jnp.ones((5, 8, 8, 4)))
    >>> bool(jnp.allclose(log_det, 0.0, atol=1e-3))
    True
    """

    event_shape: Shape = static()

    def __init__(self, key: Array, event_shape: Sequence[int], *, start: str = "rotation") -> None:
        key = _check.key("InvertibleConv1x1", key)
        self.event_shape = image_shape("InvertibleConv1x1", event_shape)
        self._set_factors(key, self.event_shape[-1], start)

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._multiply(x), self._log_det

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        # Without pivots, the factors amplify rounding errors more than their product does. One
        # step of refinement removes most of that.
        x = self._solve(y)
        return x + self._solve(y - self._multiply(x)), -self._log_det

    @property
    def _log_det(self) -> Array:
        height, width, _ = self.event_shape
        return height * width * self.log_diagonal.sum()
