"""Saving and loading flows: parameters by name in a safetensors file, the structure as JSON."""

from flowdists.io.files import decode, encode, load, save

__all__ = ["decode", "encode", "load", "save"]
