"""Fixtures shared by all tests."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from tests.precision import double_precision

ROOT = Path(__file__).resolve().parents[1]

# What JAX compiled so far. Keys and constants of modules are a few dozen small programs; a flow
# that is built or evaluated is hundreds.
_programs: list[str] = []
_MOST_PROGRAMS_OF_COLLECTION = 60


def _note_program(event: str, _: float, **__: object) -> None:
    if event.endswith("backend_compile_duration"):
        _programs.append(event)


jax.monitoring.register_event_duration_secs_listener(_note_program)


def pytest_collection_finish() -> None:
    """Refuse modules that compute where they are imported: every run and process would pay."""
    if len(_programs) > _MOST_PROGRAMS_OF_COLLECTION:
        raise pytest.UsageError(
            f"collecting the tests compiled {len(_programs)} programs: some test module computes "
            "with JAX where it is imported; move that into a fixture or a cached function"
        )


# Each compiled program holds a few memory maps, of which Linux allows a process 65,530, and about a
# megabyte of memory.
_MOST_MAPS = 10_000
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
