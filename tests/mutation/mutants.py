"""All mutants of a project, and a reproducible draw from them."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from operators import OPERATORS
from source import Source

# Each file has one of its mutants among about so many first ones of a draw.
_FIRST_OF_EACH_FILE = 80


@dataclass(frozen=True)
class Mutant:
    """One small error in one file.

    Attributes:
      id: its place among all mutants of the project.
      file: path in the checkout, with slashes.
      line: where the changed text begins.
      operator: the name of what was changed.
      before: the text that is replaced.
      after: the new text.
      start: where the replaced text begins in the file, in bytes.
    """

    id: int
    file: str
    line: int
    operator: str
    before: str
    after: str
    start: int

    def apply(self, data: bytes) -> bytes:
        """The content of the file with the error in it."""
        end = self.start + len(self.before.encode())
        return data[: self.start] + self.after.encode() + data[end:]

    def record(self) -> dict[str, object]:
        """What a line of the output says about the mutant itself."""
        names = ("id", "file", "line", "operator", "before", "after")
        return {name: getattr(self, name) for name in names}


def all_mutants(root: Path, files: Iterable[str]) -> list[Mutant]:
    """Every mutant of some files of a checkout, sorted by file and place."""
    mutants: list[Mutant] = []
    for file in sorted(files):
        source = Source(file, (root / file).read_bytes())
        for line, operator, start, before, after in sorted(set(_of(source))):
            mutants.append(Mutant(len(mutants), file, line, operator, before, after, start))
    return mutants


def _of(source: Source) -> Iterator[tuple[int, str, int, str, str]]:
    for node in source.nodes():
        for operator in OPERATORS:
            for replaced, after in operator(source, node):
                start, _ = source.span(replaced)
                yield replaced.lineno, operator.__name__, start, source.text(replaced), after


def draw(mutants: Sequence[Mutant], seed: int) -> list[Mutant]:
    """All mutants in random order, of which any number of first ones is a fair sample.

    A file with ``m`` of the ``M`` mutants has every ``M / m``-th place, about. The first mutant of
    a small file is moved forward, so that no file is left out of a draw of some size.
    """
    by_file: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        by_file[mutant.file].append(mutant)
    places: list[tuple[float, Mutant]] = []
    for file, own in sorted(by_file.items()):
        generator = random.Random(f"{seed} {file}")
        generator.shuffle(own)
        for i, mutant in enumerate(own):
            place = (i + generator.random()) / len(own)
            if i == 0:
                latest = min(1 / len(own), _FIRST_OF_EACH_FILE / len(mutants))
                place *= latest * len(own)
            places.append((place, mutant))
    return [mutant for _, mutant in sorted(places, key=lambda pair: (pair[0], pair[1].id))]
