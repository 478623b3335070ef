"""The progress bar."""

from __future__ import annotations

import warnings
from typing import Any


def progress_bar(total: int, enabled: bool, unit: str = "epoch") -> Any:
    """A tqdm bar over ``total`` epochs (or other units), the notebook's own where there is one."""
    with warnings.catch_warnings():
        # In a notebook without ipywidgets tqdm warns, and falls back to text.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm(total=total, desc="fit", unit=unit, disable=not enabled)


def show(bar: Any, train: float, validation: float | None, best: float) -> None:
    """Advance the bar by one epoch and show its losses, in nats."""
    losses = {"train": f"{train:.4f}"}
    if validation is not None:
        losses |= {"validation": f"{validation:.4f}", "best": f"{best:.4f}"}
    bar.set_postfix(losses, refresh=False)
    bar.update()
