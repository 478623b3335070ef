"""Training a density of images and learned noise together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from flowdists.bijectors.compose.chain import Chain
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.images.dequantization import VariationalDequantizer
from flowdists.images.pixels import check_num_bits, dequantize
from flowdists.training.fit import fit
from flowdists.training.result import FitResult, History, NonFiniteLossError


class DequantizedFit(NamedTuple):
    """A trained density of images, the noise trained with it, and how they got there.

    Attributes:
      flow: the flow, of the best parameters.
      dequantizer: the noise, of the same epoch.
      history: losses by epoch: minus the bound, as a density of uniformly dequantized images, in
        nats; in bits, ``bits_per_dim(-history.validation, event_shape, num_bits)``.
    """

    flow: Flow | ConditionalFlow
    dequantizer: VariationalDequantizer
    history: History


def fit_dequantized(
    key: jax.Array,
    flow: Flow | ConditionalFlow,
    dequantizer: VariationalDequantizer,
    images: Any,
    *,
    num_bits: int = 8,
    **options: Any,
) -> DequantizedFit:
    """Fit a density of images and the noise that dequantizes them, both to the bound they give.

    This is :func:`~flowdists.fit` of the flow that ends in the noise, ``Chain([flow.bijector,
    dequantizer.layer(num_bits)])``, to uniformly dequantized images, whose noise that layer turns
    into the learned one. All of ``fit`` applies, early stopping and averages included.

    Args:
      key: PRNG key.
      flow: the density of images; a conditional one needs ``context``.
      dequantizer: the noise.
      images: uint8, ``(n, *event_shape)``; or a stream, as in :func:`~flowdists.fit`.
      num_bits: bits that are kept of them, from 1 to 8.
      **options: of :func:`~flowdists.fit`. A ``transform`` has to end in uniform dequantization to
        ``num_bits``, which it is by default. A ``checkpoint`` holds the flow with the noise.

    Returns:
      A named tuple: the flow, the dequantizer, and the history. To score images,
      ``image_log_prob(key, flow, images, num_bits=num_bits, dequantizer=dequantizer)``.

    Raises:
      NonFiniteLossError: as :func:`~flowdists.fit`; its ``result`` is one of this function.
      TypeError: if ``dequantizer`` is no VariationalDequantizer; otherwise as ``fit``.
      ValueError: if its images have another shape than the flow's; otherwise as ``fit``.

    >>> from flowdists.images import VariationalDequantizer, fit_dequantized
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> shape = (4, 4, 1)
    >>> flow = fd.RealNVP(keys[0], shape, num_layers=1, hidden_sizes=(8,))
    >>> noise = fd.RealNVP(keys[1], shape, context_shape=shape, num_layers=1, hidden_sizes=(8,))
    >>> images = jnp.tile(jnp.arange(0, 256, 16, dtype=jnp.uint8).reshape(shape), (64, 1, 1, 1))
    >>> flow, dequantizer, history = fit_dequantized(
    ...     keys[2], flow, VariationalDequantizer(noise), images, max_epochs=2, progress=False
    ... )
    >>> history.train.shape
    (2,)
    """
    if not isinstance(dequantizer, VariationalDequantizer):
        raise TypeError(
            "fit_dequantized: `dequantizer` must be a VariationalDequantizer, got "
            f"{type(dequantizer).__name__}"
        )
    if not isinstance(flow, Flow | ConditionalFlow):
        raise TypeError(
            f"fit_dequantized: `flow` must be a Flow or ConditionalFlow, got {type(flow).__name__}"
        )
    if flow.event_shape != dequantizer.flow.event_shape:
        raise ValueError(
            f"fit_dequantized: `dequantizer` must make noise of the shape {flow.event_shape} of "
            f"the flow's events, got {dequantizer.flow.event_shape}"
        )
    options.setdefault("transform", _uniform(check_num_bits("fit_dequantized", num_bits)))
    joint = flow.replace(bijector=Chain([flow.bijector, dequantizer.layer(num_bits)]))

    def parts(result: FitResult) -> DequantizedFit:
        density, noise = result.flow.bijector.layers
        learned = dequantizer.flow.replace(bijector=noise.bijector)
        fitted = flow.replace(base=result.flow.base, bijector=density)
        return DequantizedFit(fitted, VariationalDequantizer(learned), result.history)

    try:
        return parts(fit(key, joint, images, **options))
    except NonFiniteLossError as error:
        error.result = parts(error.result)
        raise


@functools.lru_cache  # one object for each, so that a second fit compiles nothing
def _uniform(num_bits: int) -> Callable[..., jax.Array]:
    return functools.partial(dequantize, num_bits=num_bits)
