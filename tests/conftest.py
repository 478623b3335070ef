"""Fixtures shared by all tests."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from tests.precision import double_precision

ROOT = Path(__file__).resolve().parents[1]


# Each compiled program holds a few memory maps, of which Linux allows a process 65,530, and about a
# megabyte of memory.
_MOST_MAPS = 20_000
_MAPS = Path("/proc/self/maps")
_TESTS_BETWEEN_LOOKS = 20
_num_finished = itertools.count(1)


def pytest_runtest_logfinish() -> None:
    """Drop compiled programs before they take too much."""
    if next(_num_finished) % _TESTS_BETWEEN_LOOKS or not _MAPS.exists():
        return
    if _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def key() -> jax.Array:
    """A PRNG key, always the same."""
    return jax.random.key(0)


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for the length of one test."""
    with double_precision():
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; a test that asks for it is skipped where there is none."""
    given = os.environ.get("FLOWDISTS_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set FLOWDISTS_DATA to where the data is")
    return folder
