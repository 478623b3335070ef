"""The best flow so far, written to disk while training goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from flowdists.io import save, to_bytes
from flowdists.training.parameters import AnyFlow, Parameters, put_parameters

INTERVAL = 30.0  # seconds between writes, at least


class Checkpoint:
    """Writes the best flow when it has changed, but not too often; never an untrained one.

    Args:
      path: the file, or None to write nothing.
      flow: the flow before training.

    Raises:
      FileNotFoundError: if the folder does not exist.
      TypeError: if the flow cannot be saved.
    """

    def __init__(self, path: str | os.PathLike[str] | None, flow: AnyFlow) -> None:
        if path is not None:
            to_bytes(flow)
            if not Path(path).parent.is_dir():
                raise FileNotFoundError(
                    f"fit: `checkpoint` is in a folder that does not exist: {Path(path).parent}"
                )
        self._path, self._flow = path, flow
        self._written = time.monotonic()
        self._pending = False

    def update(self, improved: Any, parameters: Parameters) -> None:
        """Record the best parameters, and whether they are new; write them if it is time to."""
        self._best = parameters
        self._pending |= bool(improved)
        if time.monotonic() - self._written >= INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the best flow unless the file holds it already."""
        if self._path is not None and self._pending:
            save(self._path, put_parameters(self._flow, self._best))
            self._pending, self._written = False, time.monotonic()
