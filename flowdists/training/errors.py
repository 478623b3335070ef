"""What can go wrong in training."""

from __future__ import annotations

from flowdists.training.history import FitResult


class NonFiniteLossError(FloatingPointError):
    """A loss, or a parameter, became NaN or infinite.

    Attributes:
      result: the :class:`~flowdists.training.FitResult` up to the last good epoch, with the best
        parameters so far, all finite.
    """

    def __init__(self, message: str, result: FitResult) -> None:
        super().__init__(message)
        self.result = result
