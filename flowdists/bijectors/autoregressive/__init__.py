"""Autoregressive layers: sampling costs about as much as scoring."""

from flowdists.bijectors.autoregressive.layer import MaskedAutoregressive

__all__ = ["MaskedAutoregressive"]
