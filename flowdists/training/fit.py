"""Training a flow on data."""

from __future__ import annotations

import functools
import math
import numbers
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import optax

from flowdists import _check
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.training.checkpoint import Checkpoint
from flowdists.training.data import Data, split
from flowdists.training.epoch import Settings, initial_state, num_steps, run_epoch
from flowdists.training.losses import negative_log_likelihood
from flowdists.training.optimizer import make_optimizer
from flowdists.training.parameters import AnyFlow, Parameters, put_parameters, take_parameters
from flowdists.training.result import FitResult, Log, NonFiniteLossError, progress_bar
from flowdists.training.rows import Rows, Transform, check_rows

LEARNING_RATE = 2e-3
DATA_INIT_ROWS = 4096
DATA_INIT_ELEMENTS = 2**21  # 8 MB in single precision; a network's activations hold many times that


def fit(
    key: jax.Array,
    flow: Flow | ConditionalFlow,
    x: Any,
    *,
    context: Any = None,
    weights: Any = None,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float | None = None,
    batch_size: int = 256,
    max_epochs: int = 100,
    patience: int | None = 10,
    validation: Any = 0.1,
    batches_per_epoch: int = 64,
    loss: Callable[..., Any] | None = None,
    transform: Transform | None = None,
    clip_norm: float | None = 5.0,
    ema: float | None = 0.99,
    data_init: bool = True,
    train_base: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> FitResult:
    """Fit ``flow`` to the rows of ``x``; by default, by maximum likelihood.

    An epoch, with its shuffling and minibatches, is one program on the device. It is compiled once;
    a second fit with the same structure, shapes and settings compiles nothing. With held-out rows
    (``validation``), the parameters with the best loss on them are kept, and training stops when
    that loss has not improved for ``patience`` epochs. Without them, the last parameters are kept.
    The same arguments, key included, give the same result.

    If training breaks off, the best flow so far is not lost. Ctrl-C stops training with a warning
    and returns that flow. :class:`NonFiniteLossError` holds it, and so does the ``checkpoint``.

    Args:
      key: PRNG key, for the split and the shuffling.
      flow: a :class:`~flowdists.Flow` without batch axes, or a
        :class:`~flowdists.ConditionalFlow`. It is not changed. Its bijector's leaves are trained.
      x: data, ``(n, *event_shape)``, floating point and finite. It is held on the device. With a
        ``transform``, rows of any shape and dtype that it takes: uint8 images stay uint8. Or a
        stream: an iterator (a generator around a simulator, a data loader) of batches ``x``,
        ``(x, context)`` or ``(x, context, weights)``; each epoch then sees fresh rows.
      context: ``(n, *context_shape)``, for a conditional flow.
      weights: importance weights, ``(n,)``, not negative; only their ratios matter.
      optimizer: any optax optimizer. By default Adam, whose learning rate rises over the first 5 %
        of the steps and falls along a cosine to zero at ``max_epochs``.
      learning_rate: the peak learning rate of the default optimizer; 0.002 unless given.
      batch_size: the largest number of rows in a minibatch. The rows are divided evenly into as few
        minibatches as possible; the rest, fewer rows than there are minibatches, is left out of
        that epoch.
      max_epochs: the largest number of epochs.
      patience: stop after this many epochs without improvement on the held-out rows; None to never
        stop early.
      validation: what to hold out: a fraction of the rows in [0, 1), chosen by ``key``; or an array
        of other rows; or a tuple ``(x, context)`` or ``(x, context, weights)``; or None. For a
        stream, a fraction of the batches of one epoch is held out, the first ones.
      batches_per_epoch: how many batches of a stream make an epoch. They are held on the device
        together, and divided into new minibatches.
      loss: ``loss(flow, x, context, weights) -> scalar``, a mean over the rows of a minibatch;
        ``context`` is None for an unconditional flow, ``weights`` are None or scaled to mean one
        over all rows. By default ``flowdists.training.negative_log_likelihood``.
      transform: ``transform(key, x) -> x``, which turns the rows of each minibatch into
        ``(batch, *event_shape)``, floating point, on the device and with a fresh key: noise, flips,
        crops. For images, ``functools.partial(flowdists.dequantize, num_bits=5)``. The held-out
        rows are transformed with the same key in every epoch, so that their losses can be compared.
        ``data_init`` sees transformed rows too. Every new function causes a new compilation, and so
        does every new ``functools.partial``: reuse one for all fits.
      clip_norm: the largest global norm of the gradient, which is clipped before the optimizer sees
        it; None for no limit.
      ema: decay in (0, 1) of a moving average of the parameters, which is then evaluated and kept;
        or None to keep the parameters themselves.
      data_init: whether to initialize layers such as ActNorm from the first rows: 4096, or fewer if
        these have more than 2 million elements (170 images of 64×64×3), but at least a minibatch.
        Turn it off to continue the training of a flow.
      train_base: whether to train the floating-point arguments of the base too. They are trained in
        unconstrained space, so that a scale stays positive. The standard bases have none.
      checkpoint: a file to which :func:`~flowdists.save` writes the best flow, at most every 30
        seconds and when training ends for any reason; never before the first completed epoch.
      progress: whether to show a progress bar.

    Returns:
      A named tuple: the best flow, and the :class:`~flowdists.History` of its losses.

    Raises:
      NonFiniteLossError: if a loss or a parameter becomes NaN or infinite. Its ``result`` is what
        would have been returned after the epoch before.
      TypeError: if an argument has the wrong type; the message names it.
      ValueError: if an argument is out of range or of the wrong shape, data are not finite, or
        images are levels 0 to 255 cast to floats.

    >>> x = 3.0 + 0.5 * jax.random.normal(jax.random.key(0), (1000, 2))
    >>> flow = RealNVP(jax.random.key(1), (2,), num_layers=2, hidden_sizes=(8,))
    >>> flow, history = fit(jax.random.key(2), flow, x, max_epochs=2, progress=False)
    >>> bool(flow.log_prob(x).mean() > -1.6), history.train.shape
    (True, (2,))
    """
    # Check.
    _check_flow(flow)
    _check_numbers(batch_size, max_epochs, patience, ema)
    rate = _check_learning_rate(learning_rate, optimizer)
    loss = _check_function("loss", negative_log_likelihood if loss is None else loss)
    key, held_out_key, data_init_key = _check.key("fit", key), None, None
    if transform is not None:
        transform = _check_function("transform", transform)
        key, held_out_key, data_init_key = jax.random.split(key, 3)
    split_key, shuffle_key = jax.random.split(key)

    # Split.
    check = functools.partial(check_rows, flow, transform)
    data = split(split_key, check, (x, context, weights), validation, batches_per_epoch)

    # Initialize.
    total_steps = max_epochs * num_steps(data.first.size, batch_size)
    optimizer = make_optimizer("fit", optimizer, rate, total_steps, clip_norm)
    settings = Settings(optimizer, loss, batch_size, ema, transform)
    if data_init:
        rows = data.first.take(slice(_num_init_rows(flow, batch_size)))
        flow = flow.replace(bijector=_data_init(flow, rows, transform, data_init_key))
    parameters = take_parameters(flow, train_base)

    # Epochs.
    saved = Checkpoint(checkpoint, flow)
    with progress_bar(max_epochs, progress) as bar:
        log = Log(bar, max_epochs, patience)
        trained = _train(parameters, shuffle_key, held_out_key, flow, data, settings, log, saved)

    # Result.
    result = FitResult(trained, log.history(data.held_out is not None))
    if log.problem is not None:
        raise NonFiniteLossError(
            f"fit: in epoch {log.num_epochs} (from 0), {log.problem}. Lower the learning rate or "
            "`clip_norm`, or look for rows outside of the flow's support. The best flow before "
            "that is this error's `result.flow`.",
            result,
        )
    return result


def _train(
    parameters: Parameters,
    key: jax.Array,
    held_out_key: jax.Array | None,
    flow: AnyFlow,
    data: Data,
    settings: Settings,
    log: Log,
    checkpoint: Checkpoint,
) -> AnyFlow:
    """Run epochs until it is time to stop, and return the flow with the best parameters."""
    state, best = initial_state(parameters, settings)
    try:
        for epoch, rows in enumerate(data.epochs):
            epoch_key = jax.random.fold_in(key, epoch)
            state, candidate, report = run_epoch(
                state, best, epoch_key, flow, rows, data.held_out, settings, held_out_key
            )
            # Most interrupts arrive while the host waits here: `best` must be complete until then.
            report = jax.device_get(report)
            best = candidate
            log.add(report)
            checkpoint.update(report.improved, best.parameters)
            if log.stopped:
                break
    except KeyboardInterrupt:
        log.stopped = "interrupted"
        warnings.warn(
            f"fit: interrupted after {log.num_epochs} of {log.max_epochs} epochs; the best flow so "
            "far is returned",
            RuntimeWarning,
            stacklevel=3,
        )
    finally:
        checkpoint.write()
    return put_parameters(flow, best.parameters)


def _check_flow(flow: Any) -> None:
    if not isinstance(flow, Flow | ConditionalFlow):
        raise TypeError(f"fit: `flow` must be a Flow or ConditionalFlow, got {type(flow).__name__}")
    batch_shape = flow.batch_shape if isinstance(flow, Flow) else flow.base.batch_shape
    if batch_shape != ():
        raise ValueError(
            f"fit: `flow` must have no batch axes, got batch shape {batch_shape}; a conditional "
            "flow is trained as it is, with `context`"
        )
    if flow.bijector.unconditioned()[0] is not flow.bijector:
        raise ValueError(
            "fit: `flow` must not be conditioned yet, for its context would be trained as a "
            "parameter; give the ConditionalFlow, and `context`"
        )


def _check_numbers(batch_size: Any, max_epochs: Any, patience: Any, ema: Any) -> None:
    _check.positive_int("fit", "batch_size", batch_size)
    _check.positive_int("fit", "max_epochs", max_epochs)
    if patience is not None:
        _check.positive_int("fit", "patience", patience)
    if ema is not None and not (isinstance(ema, numbers.Real) and 0 < float(ema) < 1):
        raise ValueError(f"fit: `ema` must be a decay between 0 and 1, or None, got {ema!r}")


def _check_learning_rate(learning_rate: Any, optimizer: Any) -> Any:
    """The learning rate of the default optimizer."""
    if learning_rate is None:
        return LEARNING_RATE
    if optimizer is not None:
        raise ValueError(
            f"fit: `learning_rate` ({learning_rate}) is for the default optimizer, and `optimizer` "
            "was given: set it there"
        )
    return learning_rate


def _check_function(argument: str, value: Any) -> Callable[..., Any]:
    """Check that ``value`` is a function that a program can be compiled for."""
    if not callable(value):
        raise TypeError(f"fit: `{argument}` must be a function, got {type(value).__name__}")
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"fit: `{argument}` must be hashable, as functions are, got {type(value).__name__}"
        ) from None
    return value


def _num_init_rows(flow: AnyFlow, batch_size: int) -> int:
    # A training step needs the memory of a batch in any case.
    affordable = max(batch_size, DATA_INIT_ELEMENTS // math.prod(flow.event_shape))
    return min(affordable, DATA_INIT_ROWS)


# Compiled, so that nothing is computed that no layer's initialization needs.
@functools.partial(jax.jit, static_argnames="transform")
def _data_init(
    flow: AnyFlow, rows: Rows, transform: Transform | None, key: jax.Array | None
) -> Any:
    rows = rows.transformed(transform, key)
    context = () if rows.context is None else (rows.context,)
    return flow.data_init(rows.x, *context).bijector
