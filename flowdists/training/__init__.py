"""Training flows on data."""

from flowdists.training.errors import NonFiniteLossError
from flowdists.training.fit import fit
from flowdists.training.losses import negative_log_likelihood
from flowdists.training.result import FitResult, History

__all__ = ["FitResult", "History", "NonFiniteLossError", "fit", "negative_log_likelihood"]
