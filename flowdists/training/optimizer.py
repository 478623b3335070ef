"""The optimizer of a fit."""

from __future__ import annotations

import functools
from typing import Any

import optax

WARM_UP = 0.05  # of all steps


@functools.lru_cache(maxsize=64)  # the same optimizer for a second fit means no second compilation
def default_optimizer(learning_rate: float, num_steps: int) -> Any:
    """Adam; the learning rate rises linearly, then falls along a cosine to zero.

    Args:
      learning_rate: at its peak.
      num_steps: all steps of the fit.
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
    """``optimizer`` after clipping of the gradient's global norm, told the loss at every update."""
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    return optax.with_extra_args_support(optimizer)
