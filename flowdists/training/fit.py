"""Training a flow on data."""

from __future__ import annotations

import functools
import itertools
import math
import numbers
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from flowdists import _check
from flowdists.bijectors.conditioned import Conditioned
from flowdists.distribution import ConditionalFlow, Flow
from flowdists.training.checkpoint import Checkpoint
from flowdists.training.data import open_source
from flowdists.training.epoch import Report, Settings, initial_state, num_steps, run_epoch
from flowdists.training.errors import NonFiniteLossError
from flowdists.training.losses import negative_log_likelihood
from flowdists.training.optimizer import clipped, default_optimizer
from flowdists.training.parameters import put_parameters, take_parameters
from flowdists.training.progress import progress_bar, show
from flowdists.training.result import FitResult, History
from flowdists.training.rows import Data, Transform

LEARNING_RATE = 2e-3
DATA_INIT_ROWS = 4096
DATA_INIT_ELEMENTS = 2**21  # 8 MB in single precision, of which a network holds many times as much


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

    An epoch is one compiled program on the device, shuffling and minibatches included, which is
    compiled once; a second fit of the same structure, shapes and settings compiles nothing. With
    held-out rows (``validation``) the best parameters on them are kept, and training stops when
    they have not improved for ``patience`` epochs; without, the last parameters are kept. The
    result is a function of the arguments: one key, one result.

    Nothing is lost when training breaks off. Ctrl-C stops it with a warning and returns the best
    flow so far; the same flow is in :class:`NonFiniteLossError`, and in the ``checkpoint``.

    Args:
      key: PRNG key, for the split and the shuffling.
      flow: a :class:`~flowdists.Flow` without batch axes, or a
        :class:`~flowdists.ConditionalFlow`. It is not changed. Its bijector's leaves are trained.
      x: data, ``(n, *event_shape)``, floating point and finite. It is held on the device. With a
        ``transform``, rows of any shape and dtype that it takes: uint8 images stay uint8. Or a
        stream: an iterator (a generator around a simulator, a data loader) of batches of ``x``,
        ``(x, context)`` or ``(x, context, weights)``; each epoch then sees fresh rows.
      context: ``(n, *context_shape)``, for a conditional flow.
      weights: importance weights, ``(n,)``, not negative; only their ratios matter.
      optimizer: any optax optimizer. By default Adam, whose learning rate rises over the first 5 %
        of the steps and falls along a cosine to zero at ``max_epochs``.
      learning_rate: the default optimizer's, at its peak; 0.002 unless given.
      batch_size: the most rows in a minibatch. Rows are divided evenly into as few minibatches as
        that allows; the rest, fewer rows than there are minibatches, sits an epoch out.
      max_epochs: the most epochs.
      patience: epochs without improvement on the held-out rows before stopping; None for no end.
      validation: what to hold out: a fraction of the rows in [0, 1), chosen by ``key``; or an array
        of other rows; or a tuple ``(x, context)`` or ``(x, context, weights)``; or None.
        Of a stream, a fraction is that of an epoch's batches, the first ones.
      batches_per_epoch: how many batches of a stream make an epoch. They are held on the device
        together, and divided anew into minibatches.
      loss: ``loss(flow, x, context, weights) -> scalar``, a mean over the rows of a minibatch;
        ``context`` is None for an unconditional flow, ``weights`` are None or scaled to mean one
        over all rows. By default ``flowdists.training.negative_log_likelihood``.
      transform: ``transform(key, x) -> x``, which makes ``(batch, *event_shape)``, floating point,
        of the rows of each minibatch as it comes, on the device and with a fresh key: noise, flips,
        crops. For images, ``functools.partial(flowdists.dequantize, num_bits=5)``. The held-out
        rows go through it with one key in all epochs, so that these compare; the first rows also
        before ``data_init``. Each function is compiled anew, and so is each ``functools.partial``,
        for two of them are never equal: keep one for all fits.
      clip_norm: the most that the gradient's global norm may be, before the optimizer; None for no
        limit.
      ema: decay in (0, 1) of a moving average of the parameters, which is then what is evaluated
        and kept; or None to keep the parameters themselves.
      data_init: whether to initialize layers such as ActNorm from the first rows: 4096, or fewer if
        these have more than 2 million elements (170 images of 64×64×3), but a minibatch at least.
        Turn it off to train a trained flow further.
      train_base: whether to train the base's floating-point arguments too. They are trained in
        unconstrained space, so that a scale stays positive. A base of ours has none.
      checkpoint: a file that :func:`~flowdists.save` writes the best flow to, at most every 30
        seconds and at the end, however that comes; from the first completed epoch on.
      progress: whether to show a progress bar.

    Returns:
      A named tuple: the best flow, and the :class:`~flowdists.History` of its losses.

    Raises:
      NonFiniteLossError: if a loss or a parameter becomes NaN or infinite. Its ``result`` is what
        would have been returned after the last good epoch.
      TypeError: if an argument has the wrong type; it says which.
      ValueError: if an argument is out of range or of the wrong shape, data are not finite, or
        images are levels 0 to 255 cast to floats.

    >>> x = 3.0 + 0.5 * jax.random.normal(jax.random.key(0), (1000, 2))
    >>> flow = RealNVP(jax.random.key(1), (2,), num_layers=2, hidden_sizes=(8,))
    >>> flow, history = fit(jax.random.key(2), flow, x, max_epochs=2, progress=False)
    >>> bool(flow.log_prob(x).mean() > -1.6), history.train.shape
    (True, (2,))
    """
    _check_flow(flow)
    key, transform = _check.key("fit", key), _check_transform(transform)
    held_out_key = data_init_key = None
    if transform is not None:
        key, held_out_key, data_init_key = jax.random.split(key, 3)
    split_key, shuffle_key = jax.random.split(key)
    _check_numbers(batch_size, max_epochs, patience, ema, clip_norm)
    epochs, held_out = open_source(
        split_key, flow, x, context, weights, validation, transform, batches_per_epoch
    )
    data = next(epochs)
    total_steps = max_epochs * num_steps(data.size, batch_size)
    chosen = _choose_optimizer(optimizer, learning_rate, total_steps)
    loss = _check_loss(loss)
    if data_init:
        flow = _initialize(flow, data, transform, data_init_key, batch_size)
    parameters = take_parameters(flow, train_base)
    written = Checkpoint(checkpoint, flow)
    settings = Settings(clipped(chosen, clip_norm), loss, batch_size, ema, transform)
    state, best = initial_state(parameters, settings)

    def best_flow() -> Flow | ConditionalFlow:
        return put_parameters(flow, best.parameters)

    log = _Log()
    with progress_bar(max_epochs, progress) as bar:
        try:
            rows = itertools.islice(itertools.chain([data], epochs), max_epochs)
            for epoch, data in enumerate(rows):
                epoch_key = jax.random.fold_in(shuffle_key, epoch)
                state, candidate, report = run_epoch(
                    state, best, epoch_key, flow, data, held_out, settings, held_out_key
                )
                # To the host before anything is replaced: here Ctrl-C strikes.
                report = jax.device_get(report)
                if not report.finite:
                    log.stopped = "non-finite loss"
                    break
                best = candidate
                log.add(report)
                show(bar, log.train[-1], log.validation[-1], log.best)
                written.update(bool(report.improved), best_flow)
                if patience is not None and epoch - log.best_epoch >= patience:
                    log.stopped = "patience"
                    break
            else:
                log.stopped = "max_epochs" if len(log.train) == max_epochs else "end of stream"
        except KeyboardInterrupt:
            log.stopped = "interrupted"
        finally:
            written.write(best_flow)
    result = FitResult(best_flow(), log.history(held_out is not None))
    if log.stopped == "non-finite loss":
        raise NonFiniteLossError(_explain(report, len(log.train)), result)
    if log.stopped == "interrupted":
        warnings.warn(
            f"fit: interrupted after {len(log.train)} of {max_epochs} epochs; the best flow so far "
            "is returned",
            RuntimeWarning,
            stacklevel=2,
        )
    return result


class _Log:
    """The losses so far, by epoch."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.validation: list[float | None] = []
        self.seconds: list[float] = []
        self.best = math.inf
        self.best_epoch = -1
        self.stopped = ""
        self._last = time.perf_counter()

    def add(self, report: Report) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now
        self.train.append(float(report.losses.mean()))
        self.validation.append(None if report.validation is None else float(report.validation))
        if report.improved:
            self.best_epoch = len(self.train) - 1
            self.best = self.train[-1] if report.validation is None else float(report.validation)

    def history(self, has_validation: bool) -> History:
        return History(
            np.array(self.train),
            np.array(self.validation, float) if has_validation else None,
            np.array(self.seconds),
            self.best_epoch if self.best_epoch >= 0 else None,
            self.stopped,
        )


def _check_flow(flow: Any) -> None:
    if not isinstance(flow, Flow | ConditionalFlow):
        raise TypeError(f"fit: `flow` must be a Flow or ConditionalFlow, got {type(flow).__name__}")
    batch_shape = flow.batch_shape if isinstance(flow, Flow) else flow.base.batch_shape
    if batch_shape != ():
        raise ValueError(
            f"fit: `flow` must have no batch axes, got batch shape {batch_shape}; a conditional "
            "flow is trained as it is, with `context`"
        )
    if isinstance(flow.bijector, Conditioned):
        raise ValueError(
            "fit: `flow` must not be conditioned yet, for its context would be trained as a "
            "parameter; give the ConditionalFlow, and `context`"
        )


def _check_numbers(
    batch_size: Any, max_epochs: Any, patience: Any, ema: Any, clip_norm: Any
) -> None:
    _check.positive_int("fit", "batch_size", batch_size)
    _check.positive_int("fit", "max_epochs", max_epochs)
    if patience is not None:
        _check.positive_int("fit", "patience", patience)
    if ema is not None and not (isinstance(ema, numbers.Real) and 0 < float(ema) < 1):
        raise ValueError(f"fit: `ema` must be a decay between 0 and 1, or None, got {ema!r}")
    if clip_norm is not None:
        _check.positive("fit", "clip_norm", clip_norm)


def _choose_optimizer(optimizer: Any, learning_rate: Any, total_steps: int) -> Any:
    if optimizer is None:
        rate = LEARNING_RATE if learning_rate is None else learning_rate
        return default_optimizer(_check.positive("fit", "learning_rate", rate), total_steps)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            "fit: `optimizer` must be an optax optimizer, as `optax.adam(1e-3)`, got "
            f"{type(optimizer).__name__}"
        )
    if learning_rate is not None:
        raise ValueError(
            f"fit: `learning_rate` ({learning_rate}) is the default optimizer's, and `optimizer` "
            "was given: set it there"
        )
    return optimizer


def _check_loss(loss: Any) -> Callable[..., Any]:
    if loss is None:
        return negative_log_likelihood
    if not callable(loss):
        raise TypeError(f"fit: `loss` must be a function, got {type(loss).__name__}")
    return loss


def _check_transform(transform: Any) -> Transform | None:
    if transform is None:
        return None
    if not callable(transform):
        raise TypeError(f"fit: `transform` must be a function, got {type(transform).__name__}")
    try:
        hash(transform)
    except TypeError:
        raise TypeError(
            f"fit: `transform` must be hashable, as functions are, got {type(transform).__name__}"
        ) from None
    return transform


# Compiled, so that what no layer's initialization needs is not computed.
@functools.partial(jax.jit, static_argnames="transform")
def _data_init(
    flow: Flow | ConditionalFlow, rows: Data, transform: Transform | None, key: Any
) -> Any:
    rows = rows.transformed(transform, key)
    context = () if rows.context is None else (rows.context,)
    return flow.data_init(rows.x, *context).bijector


def _initialize(
    flow: Flow | ConditionalFlow,
    data: Data,
    transform: Transform | None,
    key: Any,
    batch_size: int,
) -> Flow | ConditionalFlow:
    # A step of training takes the memory of a batch anyway.
    affordable = max(batch_size, DATA_INIT_ELEMENTS // math.prod(flow.event_shape))
    rows = data.take(slice(min(affordable, DATA_INIT_ROWS)))
    return flow.replace(bijector=_data_init(flow, rows, transform, key))


def _explain(report: Report, epoch: int) -> str:
    finite = np.isfinite(report.losses)
    if not finite.all():
        step = int(finite.argmin())
        what = f"the loss of minibatch {step} of {finite.size} was {report.losses[step]}"
    elif report.validation is not None and not np.isfinite(report.validation):
        what = f"the loss of the held-out rows was {report.validation}"
    else:
        what = "a parameter was not finite after the last minibatch"
    return (
        f"fit: in epoch {epoch} (from 0), {what}. Lower the learning rate or `clip_norm`, or look "
        "for rows outside of the flow's support. The best flow before that is this error's "
        "`result.flow`."
    )
