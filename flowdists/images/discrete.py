"""Discrete images, as a NumPyro distribution."""

from __future__ import annotations

from typing import Any

import numpyro.distributions as dist
from numpyro.distributions import constraints

from flowdists import _check
from flowdists.bijectors.base import Array, Shape
from flowdists.flow import Flow
from flowdists.images.dequantization import Dequantizer, image_log_prob
from flowdists.images.latents import as_flow
from flowdists.images.pixels import check_num_bits, to_uint8


class DiscreteImages(dist.Distribution):
    r"""The distribution of uint8 images that belongs to a density of dequantized images.

    It is a NumPyro distribution, for sites that observe images as they are. Its ``log_prob`` is
    :func:`~flowdists.image_log_prob`: in expectation a lower bound of the log-mass, in nats. The
    noise comes from ``key``, so that equal keys give equal noise. In a model use
    ``numpyro.prng_key()``, which gives a new key at every step of SVI.

    A draw from the density becomes the levels of the bins that it falls into. Values outside the
    scale go to its ends. What the density has outside the scale belongs to no image, so that the
    masses of all images of ``num_bits`` bits sum to less than one.

    Args:
      key: PRNG key of the noise in ``log_prob``.
      flow: the density, on the scale [-0.5, 0.5) of :func:`~flowdists.dequantize`.
      num_bits: the bits that make the discrete image, from 1 to 8. ``log_prob`` cuts the others
        off, and in draws they are zero.
      dequantizer: the noise, such as a :class:`~flowdists.VariationalDequantizer`; uniform unless
        given.
      num_samples: samples of the noise for each image; more make the bound tighter.

    Raises:
      TypeError: if ``flow`` is not a Flow, or for a key that is not a key. Also from ``log_prob``,
        for images that are not uint8.
      ValueError: if ``num_bits`` or ``num_samples`` is out of range. Also from ``log_prob``, for
        images of another shape.

    >>> from flowdists.images import DiscreteImages
    >>> flow = Flow(StandardUniform((4, 4, 1), -0.5, 0.5), Reverse((4, 4, 1)))
    >>> images = DiscreteImages(jax.random.key(0), flow, num_bits=1)
    >>> x = images.sample(jax.random.key(1), (3,))
    >>> x.shape, x.dtype, sorted(set(x.ravel().tolist()))
    ((3, 4, 4, 1), dtype('uint8'), [0, 128])
    >>> print(fd.bits_per_dim(images.log_prob(x), images.event_shape, num_bits=0))
    [1. 1. 1.]
    """

    pytree_data_fields = ("flow", "key", "dequantizer")
    pytree_aux_fields = ("num_bits", "num_samples")

    def __init__(
        self,
        key: Array,
        flow: Flow,
        *,
        num_bits: int = 8,
        dequantizer: Dequantizer | None = None,
        num_samples: int = 1,
    ) -> None:
        caller = "DiscreteImages"
        self.flow = as_flow(caller, flow)
        self.key = _check.key(caller, key)
        self.num_bits = check_num_bits(caller, num_bits)
        self.dequantizer = dequantizer
        self.num_samples = _check.positive_int(caller, "num_samples", num_samples)
        super().__init__(flow.batch_shape, flow.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        """Levels from 0 to 255."""
        return constraints.independent(constraints.integer_interval(0, 255), self.event_dim)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw uint8 images, ``(*sample_shape, *batch_shape, *event_shape)``.

        NaN raises an error, or becomes level 0 in a traced function, as in
        :func:`~flowdists.to_uint8`.
        """
        return to_uint8(self.flow.sample(key, sample_shape), self.num_bits)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        """Log-masses in nats, ``(*sample_shape, *batch_shape)``, with the noise of the key.

        Args:
          value: uint8, ``(*sample_shape, *batch_shape, *event_shape)``.
          intermediates: not used; NumPyro passes it.
        """
        return image_log_prob(
            self.key,
            self.flow,
            value,
            num_bits=self.num_bits,
            dequantizer=self.dequantizer,
            num_samples=self.num_samples,
        )
