"""The bytes of a saved flow: a safetensors file with a checksum over all of its content."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

FORMAT = "flowdists"
VERSION = 2  # 1: files of 0.1.0; names of parameters that changed since are in `names.RENAMED`

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "BOOL": np.dtype(bool),
}


def pack(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file that holds arrays by name and metadata.

    Raises:
      TypeError: for an array of a dtype that the format does not support.
    """
    for name, array in arrays.items():
        if array.dtype not in _DTYPES.values():
            raise TypeError(f"save: `{name}` has dtype {array.dtype}, which cannot be saved")
    header = {"format": FORMAT, "format_version": str(VERSION), **metadata}
    header["sha256"] = _digest(arrays, header)
    contiguous = {k: np.ascontiguousarray(v).reshape(v.shape) for k, v in arrays.items()}
    return safetensors.numpy.save(contiguous, header)


def unpack(data: bytes, origin: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata in the bytes of a file.

    Args:
      data: the whole file.
      origin: name of the file, for error messages.

    Raises:
      ValueError: if the file is damaged, was not written by flowdists, or has a newer format.
    """
    try:
        tensors = safetensors.deserialize(data)
        header_size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_size]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{origin} is damaged, or not a safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{origin} does not hold a flow: the metadata of a file from `save` would say so, got "
            f"{sorted(metadata) or 'none'}"
        )
    _check_version(metadata.get("format_version", ""), origin)
    unknown = [t["dtype"] for _, t in tensors if t["dtype"] not in _DTYPES]
    if unknown:
        raise ValueError(f"{origin} is damaged: it holds an array of dtype {unknown[0]}")
    arrays = {
        name: np.frombuffer(bytes(t["data"]), _DTYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in tensors
    }
    expected = metadata.pop("sha256", None)
    if expected != _digest(arrays, metadata):
        raise ValueError(f"{origin} is damaged: its content does not match its checksum")
    return arrays, metadata


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` is always absent, the old file, or the complete new one."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_version(version: str, origin: str) -> None:
    if not version.isdecimal():
        raise ValueError(f"{origin} is damaged: its format version is {version!r}")
    if int(version) > VERSION:
        raise ValueError(
            f"{origin} has format version {version}, but this release of flowdists reads up to "
            f"{VERSION}: update flowdists"
        )


def _digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
