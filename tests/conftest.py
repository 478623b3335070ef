"""Fixtures shared by all tests."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from tests.precision import double_precision

ROOT = Path(__file__).resolve().parents[1]


_TESTS_BETWEEN_CLEARINGS = 25
_num_finished = itertools.count(1)


def pytest_runtest_logfinish() -> None:
    """Drop compiled programs now and then.

    Each of them holds a few memory maps, of which a process has 65,530 on Linux; compilation fails
    beyond that.
    """
    if next(_num_finished) % _TESTS_BETWEEN_CLEARINGS == 0:
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
