"""One epoch of training as one compiled program."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flowdists.training.parameters import AnyFlow, Parameters, put_parameters
from flowdists.training.rows import Rows, Transform

Array = jax.Array


class Settings(NamedTuple):
    """What an epoch is compiled for.

    Attributes:
      optimizer: an optax optimizer.
      loss: ``(flow, x, context, weights) -> scalar``.
      batch_size: the largest number of rows in a minibatch.
      ema: decay of the moving average of the parameters, or None.
      transform: ``(key, x) -> x``, applied to ``x`` before the flow sees it, or None.
    """

    optimizer: Any
    loss: Callable[..., Array]
    batch_size: int
    ema: float | None
    transform: Transform | None


class State(NamedTuple):
    """What changes from step to step.

    Attributes:
      parameters: the parameters.
      optimizer: the optimizer's state.
      average: the moving average of the parameters, or None.
      step: the number of steps so far.
    """

    parameters: Parameters
    optimizer: Any
    average: Any
    step: Array


class Best(NamedTuple):
    """The best parameters so far, and their loss."""

    parameters: Parameters
    loss: Array


class Report(NamedTuple):
    """What an epoch reports to the host.

    Attributes:
      losses: of every step.
      validation: of the held-out rows, or None.
      finite: whether all losses and parameters are finite.
      improved: whether the epoch's parameters are the best so far.
    """

    losses: Array
    validation: Array | None
    finite: Array
    improved: Array

    def not_finite(self) -> str:
        """What was not finite, in words."""
        finite = np.isfinite(self.losses)
        if not finite.all():
            step = int(finite.argmin())
            return f"the loss of minibatch {step} of {finite.size} was {self.losses[step]}"
        if self.validation is not None and not np.isfinite(self.validation):
            return f"the loss of the held-out rows was {self.validation}"
        return "a parameter was not finite after the last minibatch"


def num_steps(num_rows: int, batch_size: int) -> int:
    """The number of minibatches in an epoch: the smallest that can hold ``num_rows``."""
    return math.ceil(num_rows / batch_size)


def initial_state(parameters: Parameters, settings: Settings) -> tuple[State, Best]:
    """The state before the first epoch."""
    copy = functools.partial(jax.tree.map, jnp.copy)  # each is donated, or kept, separately
    average = None if settings.ema is None else copy(parameters)
    optimizer = settings.optimizer.init(parameters)
    state = State(parameters, optimizer, average, jnp.zeros((), jnp.int32))
    return state, Best(copy(parameters), jnp.full((), jnp.inf, jnp.result_type(float)))


# `best` is not donated, because it remains if the user interrupts the program.
@functools.partial(jax.jit, static_argnames="settings", donate_argnames="state")
def run_epoch(
    state: State,
    best: Best,
    key: Array,
    flow: AnyFlow,
    rows: Rows,
    held_out: Rows | None,
    settings: Settings,
    held_out_key: Array | None,
) -> tuple[State, Best, Report]:
    """Shuffle the rows, take a step for each minibatch, evaluate the held-out rows.

    The rows are divided evenly into :func:`num_steps` minibatches. The rest, fewer rows than there
    are minibatches, is left out of this epoch.

    Args:
      state: the state, whose memory is reused.
      best: the best parameters so far.
      key: PRNG key of this epoch.
      flow: supplies everything that is not trained.
      rows: rows to train on.
      held_out: rows to evaluate; or None, and every epoch with finite numbers is the best so far.
      settings: what the program is compiled for.
      held_out_key: PRNG key of the transform of the held-out rows, the same in each epoch.
    """
    steps = num_steps(rows.size, settings.batch_size)
    noise_keys = None
    if settings.transform is not None:
        key, noise_key = jax.random.split(key)
        noise_keys = jax.random.split(noise_key, steps)
    size = rows.size // steps
    batches = jax.random.permutation(key, rows.size)[: steps * size].reshape(steps, size)

    def loss_of(parameters: Parameters, rows: Rows, noise_key: Array | None) -> Array:
        rows = rows.transformed(settings.transform, noise_key)
        return settings.loss(put_parameters(flow, parameters), *rows)

    def step(state: State, batch: tuple[Array, Array | None]) -> tuple[State, Array]:
        indices, noise_key = batch
        loss, gradient = jax.value_and_grad(loss_of)(
            state.parameters, rows.take(indices), noise_key
        )
        updates, optimizer = settings.optimizer.update(
            gradient, state.optimizer, state.parameters, value=loss
        )
        parameters = optax.apply_updates(state.parameters, updates)
        average = state.average
        if settings.ema is not None:
            average = _move(average, parameters, settings.ema, state.step)
        return State(parameters, optimizer, average, state.step + 1), loss

    state, losses = jax.lax.scan(step, state, (batches, noise_keys))
    candidate = state.parameters if state.average is None else state.average
    finite = jnp.isfinite(losses).all() & all_finite(candidate)
    if held_out is None:
        validation, improved = None, finite
        loss = losses.mean()
    else:
        validation = loss = _mean_loss(
            functools.partial(loss_of, candidate), held_out, held_out_key, 4 * settings.batch_size
        )
        finite &= jnp.isfinite(validation)
        improved = finite & (validation < best.loss)
    kept = jax.tree.map(lambda new, old: jnp.where(improved, new, old), Best(candidate, loss), best)
    return state, kept, Report(losses, validation, finite, improved)


def _move(average: Parameters, parameters: Parameters, decay: float, step: Array) -> Parameters:
    """The exponential moving average, with a smaller decay in its first steps."""
    rate = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, p: (a + rate * (p - a)).astype(a.dtype), average, parameters)


def all_finite(tree: Any) -> Array:
    """Whether all numbers in a pytree of arrays are finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _mean_loss(loss: Callable[..., Array], rows: Rows, key: Array | None, chunk_size: int) -> Array:
    """The mean loss over all rows, with at most ``chunk_size`` of them in memory at a time."""
    chunks = num_steps(rows.size, chunk_size)
    if chunks == 1:
        return loss(rows, key)
    keys, last_key = None, None
    if key is not None:
        key, last_key = jax.random.split(key)
        keys = jax.random.split(key, chunks)
    size = rows.size // chunks
    inside = jax.tree.map(lambda a: a[: chunks * size].reshape(chunks, size, *a.shape[1:]), rows)
    total = size * jax.lax.map(lambda chunk: loss(*chunk), (inside, keys)).sum()
    rest = rows.size - chunks * size
    if rest:
        total += rest * loss(rows.take(slice(chunks * size, None)), last_key)
    return total / rows.size
