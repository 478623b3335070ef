"""A network of sets: its output does not depend on the order of the elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flowdists import _check
from flowdists._pytree import static
from flowdists.networks.base import Activation, Array, Network
from flowdists.networks.mlp import MLP

POOLING = ("mean", "sum", "max")


class DeepSets(Network):
    r"""A permutation-invariant network, :math:`\rho(\mathrm{pool}_i\,\phi(x_i))`.

    From Zaheer et al. 2017 (https://arxiv.org/abs/1703.06114). Both functions are MLPs. The pooled
    features enter the second one, together with the logarithm of the number of elements. As the
    embedding of a conditional flow, it makes the density depend on a set of observations, not on
    their order.

    With ``masked``, sets of different sizes share one array. The last feature is then a mask: 1 for
    an element of the set, and 0 for a filler, whose other features are ignored. The contexts of a
    flow must be finite, so use fillers of zeros, not of NaN.

    Args:
      key: PRNG key.
      in_size: number of features of one element, without the mask.
      out_size: length of the output vector.
      hidden_sizes: widths of the hidden layers of both MLPs.
      pooling: "mean", "sum" or "max", over the elements.
      masked: whether elements carry a mask.
      activation: a function, or the name of one in :mod:`jax.nn`.

    Raises:
      ValueError: for a size or an option out of range.

    >>> network = DeepSets(jax.random.key(0), 2, 8, masked=True)
    >>> present = jnp.array([[1.0], [1.0], [0.0]])
    >>> elements = jnp.concatenate([jnp.ones((3, 2)), present], axis=-1)
    >>> network(elements).shape
    (8,)
    """

    element: MLP
    output: MLP
    pooling: str = static()
    masked: bool = static()

    def __init__(
        self,
        key: Array,
        in_size: int,
        out_size: int,
        *,
        hidden_sizes: Sequence[int] = (64, 64),
        pooling: str = "mean",
        masked: bool = False,
        activation: Activation = "relu",
    ) -> None:
        in_size = _check.positive_int("DeepSets", "in_size", in_size)
        out_size = _check.positive_int("DeepSets", "out_size", out_size)
        sizes = _check.sizes("DeepSets", "hidden_sizes", hidden_sizes)
        self.pooling = _check.one_of("DeepSets", "pooling", pooling, POOLING)
        self.masked = bool(masked)
        element_key, output_key = jax.random.split(_check.key("DeepSets", key))
        options: dict[str, Any] = {
            "hidden_sizes": sizes,
            "activation": activation,
            "output_scale": 1.0,
        }
        self.element = MLP(element_key, in_size, sizes[-1], **options)
        self.output = MLP(output_key, sizes[-1] + 1, out_size, **options)

    @property
    def ends_in_mask(self) -> bool:
        """Whether the last feature is a mask, which must not be standardized."""
        return self.masked

    def __call__(self, x: Array) -> Array:
        """Map sets ``(*batch, n, in_size)``, or ``in_size + 1`` with a mask, to vectors.

        The pooled features of an empty set are zero.
        """
        mask = x[..., -1:] if self.masked else jnp.ones_like(x[..., :1])
        present = mask > 0.5
        if self.masked:  # a NaN in a filler must not reach the gradient
            x = jnp.where(present, x[..., :-1], 0.0)
        features = self.element(x)
        # A NaN in the mask makes the output NaN.
        count = jnp.where(jnp.isnan(mask), mask, present).sum(axis=-2).astype(features.dtype)
        if self.pooling == "max":
            pooled = jnp.where(present, features, -jnp.inf).max(axis=-2)
            pooled = jnp.where(count > 0, pooled, 0.0)
        else:
            pooled = jnp.where(present, features, 0.0).sum(axis=-2)
            pooled = pooled / jnp.maximum(count, 1.0) if self.pooling == "mean" else pooled
        return self.output(jnp.concatenate([pooled, jnp.log1p(count)], axis=-1))
