"""What can go wrong in training."""

from __future__ import annotations

from typing import Any


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
