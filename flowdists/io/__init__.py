"""Saving and loading flows: parameters by name in a safetensors file, the structure as JSON."""

from flowdists.io.files import from_bytes, load, save, to_bytes

__all__ = ["from_bytes", "load", "save", "to_bytes"]
