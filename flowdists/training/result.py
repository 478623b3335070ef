"""What a fit returns, and what it shows and records on the way."""

from __future__ import annotations

import time
import warnings
from typing import Any, NamedTuple

import numpy as np

from flowdists.training.epoch import Report
from flowdists.training.parameters import AnyFlow


class History(NamedTuple):
    """The course of a fit, one entry for each completed epoch.

    Attributes:
      train: mean loss over the epoch's minibatches, in nats, each with the parameters of its step.
      validation: loss of the held-out rows at the end of the epoch, in nats (of the averaged
        parameters if there is an average); None without held-out rows.
      seconds: wall-clock time of the epoch; the first one includes the compilation.
      best_epoch: index of the epoch whose parameters were kept, from 0; None if they are those
        from before the first epoch.
      stopped: why the fit ended: "max_epochs", "patience", "end of stream", "interrupted" or
        "non-finite loss".
    """

    train: np.ndarray
    validation: np.ndarray | None
    seconds: np.ndarray
    best_epoch: int | None
    stopped: str


class FitResult(NamedTuple):
    """A trained flow and the history of its losses.

    Attributes:
      flow: the flow with the best parameters.
      history: losses by epoch.
    """

    flow: AnyFlow
    history: History


class NonFiniteLossError(FloatingPointError):
    """A loss, or a parameter, became NaN or infinite.

    Attributes:
      result: what would have been returned (:class:`~flowdists.FitResult` of ``fit``,
        :class:`~flowdists.GuideFit` of ``fit_guide``), with the best parameters before that, all
        finite.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class Log:
    """The epochs so far, shown on a progress bar, and whether to stop.

    Args:
      bar: the progress bar.
      max_epochs: stop after this many epochs.
      patience: stop after this many epochs without improvement, or None.

    Attributes:
      stopped: why the fit ended; None while it goes on.
      problem: what was not finite, or None.
    """

    def __init__(self, bar: Any, max_epochs: int, patience: int | None) -> None:
        self.stopped: str | None = None
        self.problem: str | None = None
        self.max_epochs, self._patience, self._bar = max_epochs, patience, bar
        self._reports: list[Report] = []
        self._times = [time.perf_counter()]
        self._best_epoch = -1

    @property
    def num_epochs(self) -> int:
        """The number of completed epochs."""
        return len(self._reports)

    def add(self, report: Report) -> None:
        """Record an epoch, unless its numbers are not finite."""
        if not report.finite:
            self.stopped, self.problem = "non-finite loss", report.not_finite()
            return
        if report.improved:
            self._best_epoch = self.num_epochs
        self._reports.append(report)
        self._times.append(time.perf_counter())
        self._show(report)
        if self._patience is not None and self.num_epochs - self._best_epoch > self._patience:
            self.stopped = "patience"
        elif self.num_epochs == self.max_epochs:
            self.stopped = "max_epochs"

    def _show(self, report: Report) -> None:
        losses = {"train": f"{report.losses.mean():.4f}"}
        if report.validation is not None:
            best = self._reports[self._best_epoch].validation
            losses |= {"validation": f"{report.validation:.4f}", "best": f"{best:.4f}"}
        self._bar.set_postfix(losses, refresh=False)
        self._bar.update()

    def history(self, has_validation: bool) -> History:
        """The history of the fit; without a reason to stop, the data came to an end."""
        return History(
            np.array([report.losses.mean() for report in self._reports], float),
            np.array([r.validation for r in self._reports], float) if has_validation else None,
            np.diff(self._times),
            self._best_epoch if self._best_epoch >= 0 else None,
            self.stopped or "end of stream",
        )


def progress_bar(total: int, enabled: bool, unit: str = "epoch") -> Any:
    """A tqdm bar over ``total`` epochs or other units; in a notebook, a widget."""
    with warnings.catch_warnings():
        # In a notebook without ipywidgets tqdm warns, and falls back to text.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm(total=total, desc="fit", unit=unit, disable=not enabled)
