"""Autoregressive layers: sampling costs what scoring costs."""

from flowdists.bijectors.autoregressive.layer import MaskedAutoregressive

__all__ = ["MaskedAutoregressive"]
