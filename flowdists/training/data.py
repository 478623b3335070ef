"""The data of a fit: the rows of each epoch, and the rows held out for validation."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.training.rows import Rows

Check = Callable[..., Rows]  # `check_rows` for the flow that is trained


class Data(NamedTuple):
    """What a flow is trained on. All weights have mean one.

    Attributes:
      first: the rows of the first epoch.
      epochs: the rows of every epoch, the first included.
      held_out: the rows for validation, or None.
    """

    first: Rows
    epochs: Iterator[Rows]
    held_out: Rows | None


def split(
    key: jax.Array, check: Check, given: Sequence[Any], validation: Any, batches_per_epoch: Any
) -> Data:
    """Check the data, and split it into rows to train on and rows held out.

    Args:
      key: PRNG key, for the choice of the rows held out.
      check: turns ``x, context, weights`` into checked rows.
      given: ``x, context, weights`` as in :func:`~flowdists.fit`; if ``x`` is an iterator, the
        others must be None.
      validation: as in :func:`~flowdists.fit`.
      batches_per_epoch: how many batches of an iterator make an epoch.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if one is out of range or of the wrong shape, or nothing is left to train on.
    """
    x, *others = given
    if isinstance(x, Iterator):
        for argument, value in zip(("context", "weights"), others, strict=True):
            if value is not None:
                raise ValueError(
                    f"fit: `{argument}` was given beside an iterator for `x`, which must yield it: "
                    "(x, context) or (x, context, weights)"
                )
        num_batches = _check.positive_int("fit", "batches_per_epoch", batches_per_epoch)
        return _split_stream(check, x, num_batches, validation)
    return _split_rows(key, check, check(*given), validation)


def _split_rows(key: jax.Array, check: Check, rows: Rows, validation: Any) -> Data:
    fraction, held_out = _resolve(check, validation)
    if fraction:
        count = max(1, round(fraction * rows.size))
        if count >= rows.size:
            raise ValueError(
                f"fit: `validation` of {fraction} leaves no row to train on out of {rows.size}"
            )
        shuffled = jax.random.permutation(key, rows.size)
        rows, held_out = rows.take(shuffled[count:]), rows.take(shuffled[:count]).normalized()
    rows = rows.normalized()
    return Data(rows, itertools.repeat(rows), held_out)


def _split_stream(check: Check, batches: Iterator[Any], num_batches: int, validation: Any) -> Data:
    fraction, held_out = _resolve(check, validation)
    if fraction:
        held_out = _next_rows(check, batches, max(1, round(fraction * num_batches)))
    epochs = iter(lambda: _next_rows(check, batches, num_batches), None)
    first = next(epochs, None)
    if first is None:
        after = f", after those held out by `validation`={fraction}" if fraction else ""
        raise ValueError(f"fit: `x` is an iterator without batches to train on{after}")
    return Data(first, itertools.chain([first], epochs), held_out)


def _resolve(check: Check, validation: Any) -> tuple[float, Rows | None]:
    """``validation`` as a fraction of the data, or 0; and as rows of its own, checked, or None."""
    if validation is None:
        return 0.0, None
    if isinstance(validation, tuple) or np.ndim(validation) > 0:
        entries = _entries("`validation` as a tuple must be", validation)
        return 0.0, check(*entries, prefix="validation ").normalized()
    is_number = isinstance(validation, numbers.Real) and not isinstance(validation, bool)
    if not is_number or not 0 <= float(validation) < 1:
        raise ValueError(
            "fit: `validation` must be a fraction in [0, 1), an array, a tuple of arrays or None, "
            f"got {validation!r}"
        )
    return float(validation), None


def _next_rows(check: Check, batches: Iterator[Any], count: int) -> Rows | None:
    """The rows of the next ``count`` batches, or of those that are left; None without any."""
    parts = [
        check(*_entries("`x` as an iterator must yield", batch), prefix="a batch's ")
        for batch in itertools.islice(batches, count)
    ]
    if not parts:
        return None
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts).normalized()


def _entries(what: str, value: Any) -> tuple[Any, ...]:
    """``value`` as ``x``, ``context`` and ``weights``, as many of them as it has."""
    entries = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(entries) <= 3:
        raise ValueError(
            f"fit: {what} x, (x, context) or (x, context, weights), got {len(entries)} entries"
        )
    return entries
