"""Discrete image data: levels made continuous, and likelihoods of levels, not of densities."""

from flowdists.images.dequantization import VariationalDequantizer, image_log_prob
from flowdists.images.pixels import bits_per_dim, dequantize, reduce_bits, to_uint8

__all__ = [
    "VariationalDequantizer",
    "bits_per_dim",
    "dequantize",
    "image_log_prob",
    "reduce_bits",
    "to_uint8",
]
