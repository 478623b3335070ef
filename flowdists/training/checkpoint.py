"""The best flow so far, on disk, while training goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from flowdists.distribution import ConditionalFlow, Flow
from flowdists.io import save, to_bytes

INTERVAL = 30.0  # seconds between writes, at least


class Checkpoint:
    """Writes the best flow when it has changed, but not too often; never an untrained one.

    Args:
      path: the file, or None to write nothing.
      flow: the flow before training; whether it can be saved is found out at once.

    Raises:
      FileNotFoundError: if the folder does not exist.
      TypeError: if the flow cannot be saved.
    """

    def __init__(self, path: str | os.PathLike[str] | None, flow: Flow | ConditionalFlow) -> None:
        self._path = path
        self._written = time.monotonic()
        self._pending = False
        if path is None:
            return
        to_bytes(flow)
        if not Path(path).parent.is_dir():
            raise FileNotFoundError(
                f"fit: `checkpoint` is in a folder that does not exist: {Path(path).parent}"
            )

    def update(self, improved: bool, flow: Callable[[], Flow | ConditionalFlow]) -> None:
        """Take note of whether the best flow has changed, and write it if it is time to."""
        self._pending |= improved
        if time.monotonic() - self._written >= INTERVAL:
            self.write(flow)

    def write(self, flow: Callable[[], Flow | ConditionalFlow]) -> None:
        """Write the best flow unless the file has it."""
        if self._path is not None and self._pending:
            save(self._path, flow())
            self._pending, self._written = False, time.monotonic()
