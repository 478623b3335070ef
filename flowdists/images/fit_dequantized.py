"""Training of a density of images together with learned noise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from flowdists.bijectors.compose.chain import Chain
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.images import check
from flowdists.images.dequantization import VariationalDequantizer
from flowdists.images.pixels import check_num_bits, dequantize
from flowdists.training.fit import fit
from flowdists.training.result import FitResult, History, NonFiniteLossError


class DequantizedFit(NamedTuple):
    """A density of images and noise, trained together, and the history of the training.

    Attributes:
      flow: the flow, with the best parameters.
      dequantizer: the noise, with the parameters of the same epoch.
      history: the loss of each epoch. It is minus the bound in nats, as a log-density of uniformly
        dequantized images. In bits: ``bits_per_dim(-history.validation, event_shape, num_bits)``.
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
    """Fit a density of images and the noise that dequantizes them, so that their bound is tight.

    This is :func:`~flowdists.fit` for a flow with one more layer, ``Chain([flow.bijector,
    dequantizer.layer(num_bits)])``, and uniformly dequantized images. The layer turns their uniform
    noise into learned noise. All features of ``fit`` are available, such as early stopping and
    averages.

    Args:
      key: PRNG key.
      flow: the density of images; a conditional one needs ``context``.
      dequantizer: the noise.
      images: uint8, ``(n, *event_shape)``; or a stream, as in :func:`~flowdists.fit`.
      num_bits: bits of the images that are kept, from 1 to 8.
      **options: options of :func:`~flowdists.fit`. A ``transform`` has to end in uniform
        dequantization to ``num_bits``, which is the default. A ``checkpoint`` holds the flow
        together with the noise.

    Returns:
      A named tuple: the flow, the dequantizer and the history. To score images, call
      ``image_log_prob(key, flow, images, num_bits=num_bits, dequantizer=dequantizer)``.

    Raises:
      NonFiniteLossError: as :func:`~flowdists.fit`; its ``result`` is a DequantizedFit.
      TypeError: if ``dequantizer`` is not a VariationalDequantizer; otherwise as ``fit``.
      ValueError: if its noise and the flow's events differ in shape; otherwise as ``fit``.

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
    check.instance("fit_dequantized", "dequantizer", dequantizer, VariationalDequantizer)
    check.instance("fit_dequantized", "flow", flow, Flow, ConditionalFlow)
    if flow.event_shape != dequantizer.flow.event_shape:
        raise ValueError(
            f"fit_dequantized: `dequantizer` must make noise of the shape {flow.event_shape} of "
            f"the flow's events, got {dequantizer.flow.event_shape}"
        )
    num_bits = check_num_bits("fit_dequantized", num_bits)
    options.setdefault("transform", _uniform_noise(num_bits))
    joint = flow.replace(bijector=Chain([flow.bijector, dequantizer.layer(num_bits)]))

    def separate(result: FitResult) -> DequantizedFit:
        density, noise = result.flow.bijector.layers
        learned = dequantizer.flow.replace(bijector=noise.bijector)
        fitted = flow.replace(base=result.flow.base, bijector=density)
        return DequantizedFit(fitted, VariationalDequantizer(learned), result.history)

    try:
        return separate(fit(key, joint, images, **options))
    except NonFiniteLossError as error:
        error.result = separate(error.result)
        raise


@functools.lru_cache  # returns the same object again, so that a second fit compiles nothing
def _uniform_noise(num_bits: int) -> Callable[..., jax.Array]:
    return functools.partial(dequantize, num_bits=num_bits)
