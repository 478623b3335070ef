"""Learned noise as a layer of a flow."""

from __future__ import annotations

from numpyro.distributions import constraints

from flowdists._pytree import static
from flowdists.bijectors.base import Array, Bijector, Direction, Shape
from flowdists.bijectors.compose.chain import Chain
from flowdists.bijectors.compose.conditioned import Conditioned
from flowdists.bijectors.support import to_support
from flowdists.images.pixels import bins, centers, place


class LearnedNoise(Bijector):
    r"""From images with learned noise to images of the same levels with uniform noise.

    A flow that ends in this layer gives a uniformly dequantized image the density

    .. math:: p(x) / q(u), \qquad x = (k + u) / 2^b - 1/2.

    Here ``p`` is the density of the flow without the layer, and ``q`` is the density of the learned
    noise ``u``. An ordinary fit therefore maximizes the bound of the learned noise, with respect to
    both the flow and the noise.

    Args:
      bijector: from standard logistic noise to logits of learned noise. Its context is the middles
        of the bins.
      num_bits: bits of the images.
    """

    bijector: Bijector
    num_bits: int = static()

    @property
    def event_shape(self) -> Shape:
        return self.bijector.event_shape

    @property
    def cheap_direction(self) -> Direction:
        return "inverse" if self.bijector.cheap_direction == "forward" else "forward"

    def forward_and_log_det(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._move("inverse", x)

    def inverse_and_log_det(self, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        return self._move("forward", y)

    def _move(self, direction: Direction, value: Array) -> tuple[Array, Array]:
        levels, u = bins(value, self.num_bits)
        sigmoid = to_support(constraints.unit_interval)
        layer = Conditioned(self.bijector, centers(levels, self.num_bits))
        from_uniform = Chain([sigmoid.inv, layer, sigmoid])
        u, log_det = getattr(from_uniform, f"{direction}_and_log_det")(u)
        return place(levels, u, self.num_bits), log_det
