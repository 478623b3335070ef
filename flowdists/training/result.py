"""What a fit returns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowdists.distribution import ConditionalFlow, Flow


class History(NamedTuple):
    """The course of a fit, one entry for each completed epoch.

    Attributes:
      train: mean loss over the epoch's minibatches, in nats, taken while the parameters moved.
      validation: loss of the held-out rows at the end of the epoch, in nats (of the averaged
        parameters where there is an average); None without held-out rows.
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
    """A trained flow and how it got there.

    Attributes:
      flow: the flow with the best parameters.
      history: losses by epoch.
    """

    flow: Flow | ConditionalFlow
    history: History
