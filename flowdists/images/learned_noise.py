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
    r"""From images with learned noise to the same levels with uniform noise, within every bin.

    Under a flow that ends in this layer, the density of a uniformly dequantized image is

    .. math:: p(x) / q(u), \qquad x = (k + u) / 2^b - 1/2,

    that of the flow without it at learned noise ``u``, by that of the noise. So an ordinary fit
    maximizes the bound that the noise gives, with respect to the flow and the noise.

    Args:
      bijector: from standard logistic noise to logits of learned noise, given the middles of the
        bins.
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
        levels, part = bins(value, self.num_bits)
        onto = to_support(constraints.unit_interval)
        given = Conditioned(self.bijector, centers(levels, self.num_bits))
        layer = Chain([onto.inv, given, onto])  # from uniform noise to learned noise
        part, log_det = getattr(layer, f"{direction}_and_log_det")(part)
        return place(levels, part, self.num_bits), log_det
