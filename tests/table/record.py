"""What the tests know of a bijector in the table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax

import flowdists as fd


@dataclass(frozen=True, eq=False)
class Entry:
    """A bijector to test.

    Attributes:
      name: a readable name, with its kind before the colon.
      cls: the class of what ``make`` returns. Its first entry stands for the class: what holds for
        all objects of a class is tested on that entry alone.
      make: builds the bijector from a PRNG key.
      move: how far its parameters are moved from their start, at which most layers are the
        identity. Less for what would overflow: unbounded scales of inputs that are not small.
      exempt: names of tests that do not apply, each with the reason.
    """

    name: str
    cls: type[fd.Bijector]
    make: Callable[[jax.Array], fd.Bijector]
    move: float = 0.4
    exempt: Mapping[str, str] = field(default_factory=dict)
