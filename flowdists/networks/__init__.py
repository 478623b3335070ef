"""Conditioners: networks that map part of an event, and a context, to a layer's parameters."""

from flowdists.networks.base import Linear, Network
from flowdists.networks.deep_sets import DeepSets
from flowdists.networks.made import MADE
from flowdists.networks.mlp import MLP, ResidualMLP

__all__ = [
    "MADE",
    "MLP",
    "DeepSets",
    "Linear",
    "Network",
    "ResidualMLP",
]
