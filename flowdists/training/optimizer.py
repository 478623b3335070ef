"""The optimizer of a fit: the user's, or Adam with a schedule; after clipping of the gradient."""

from __future__ import annotations

import functools
from typing import Any

import optax

from flowdists import _check

WARM_UP = 0.05  # fraction of all steps


def make_optimizer(
    caller: str, optimizer: Any, learning_rate: Any, num_steps: int, clip_norm: Any
) -> Any:
    """The optimizer given, or the default one, after clipping.

    Args:
      caller: what to call the caller in an error message.
      optimizer: an optax optimizer, or None for :func:`default_optimizer`.
      learning_rate: of the default optimizer, at its peak.
      num_steps: the number of steps of the fit.
      clip_norm: the largest global norm of a gradient, or None.

    Raises:
      TypeError: if ``optimizer`` is not an optax optimizer.
      ValueError: if a number is not positive.
    """
    if clip_norm is not None:
        _check.positive(caller, "clip_norm", clip_norm)
    if optimizer is None:
        rate = _check.positive(caller, "learning_rate", learning_rate)
        optimizer = default_optimizer(rate, num_steps)
    # NumPyro's optimizers have `init` and `update` too, but with other arguments.
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"{caller}: `optimizer` must be an optax optimizer, as `optax.adam(1e-3)`, got "
            f"{type(optimizer).__name__}"
        )
    return clipped(optimizer, clip_norm)


@functools.lru_cache(maxsize=64)  # the same optimizer for a second fit means no second compilation
def default_optimizer(learning_rate: float, num_steps: int) -> Any:
    """Adam; the learning rate rises linearly, then falls along a cosine to zero.

    Args:
      learning_rate: at its peak.
      num_steps: the number of steps of the fit.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.1 * learning_rate,
        peak_value=learning_rate,
        warmup_steps=int(WARM_UP * num_steps),
        decay_steps=num_steps,
    )
    return optax.adam(schedule)


@functools.lru_cache(maxsize=64)
def clipped(optimizer: Any, clip_norm: float | None) -> Any:
    """``optimizer`` after clipping of the gradient's global norm; every update gets the loss."""
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    return optax.with_extra_args_support(optimizer)
