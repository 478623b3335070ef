"""Training flows on data."""

from flowdists.training.fit import fit
from flowdists.training.losses import negative_log_likelihood
from flowdists.training.result import FitResult, History, NonFiniteLossError

__all__ = ["FitResult", "History", "NonFiniteLossError", "fit", "negative_log_likelihood"]
