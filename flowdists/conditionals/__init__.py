"""Exact conditional distributions of flows, given some elements of their events."""

from flowdists.conditionals.given import given

__all__ = ["given"]
