"""What is said about mutants: lists, the progress of a run, and its summary."""

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mutants import Mutant
from trial import SURVIVED

_LONGEST = 60


def listing(mutants: Sequence[Mutant]) -> str:
    """A line for each mutant, and how many there are in each file."""
    counts = Counter(mutant.file for mutant in mutants)
    lines = [describe(mutant) for mutant in mutants]
    lines += [f"{count:5} {file}" for file, count in sorted(counts.items())]
    return "\n".join([*lines, f"{len(mutants):5} mutants"])


def describe(mutant: Mutant) -> str:
    """A mutant in a line."""
    before, after = (_short(text) for text in (mutant.before, mutant.after))
    return f"{mutant.id:5} {mutant.file}:{mutant.line} {mutant.operator}: {before} -> {after}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def summary(root: Path, mutants: Sequence[Mutant], records: Mapping[int, dict[str, Any]]) -> str:
    """The counts of a run, by file and by operator, and each survivor as a diff.

    Args:
      root: the checkout.
      mutants: those of the run.
      records: their results, by id.
    """
    tried = [mutant for mutant in mutants if mutant.id in records]
    results = Counter(records[mutant.id]["result"] for mutant in tried)
    survivors = [mutant for mutant in tried if records[mutant.id]["result"] == SURVIVED]
    kinds = ", ".join(f"{count} {result}" for result, count in sorted(results.items()))
    parts = [
        *(diff(root, mutant) for mutant in survivors),
        _table(tried, records, lambda mutant: mutant.file),
        _table(tried, records, lambda mutant: mutant.operator),
        f"{len(tried) - len(survivors)} of {len(tried)} mutants were noticed ({kinds})",
    ]
    return "\n\n".join(parts)


def _table(
    mutants: Sequence[Mutant],
    records: Mapping[int, dict[str, Any]],
    group: Callable[[Mutant], str],
) -> str:
    groups: dict[str, list[bool]] = defaultdict(list)
    for mutant in mutants:
        groups[group(mutant)].append(records[mutant.id]["result"] != SURVIVED)
    return "\n".join(
        f"{sum(noticed):4} of {len(noticed):3}  {name}" for name, noticed in sorted(groups.items())
    )


def diff(root: Path, mutant: Mutant) -> str:
    """A mutant as a diff with a line of context."""
    data = (root / mutant.file).read_bytes()
    old, new = (text.decode().splitlines() for text in (data, mutant.apply(data)))
    lines = list(difflib.unified_diff(old, new, lineterm="", n=1))[2:]
    return "\n".join([f"{mutant.id} {mutant.file}:{mutant.line} ({mutant.operator})", *lines])
