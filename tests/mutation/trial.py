"""One mutant against the tests: a copy of the checkout, and a fork of a process for each stage.

The parent has imported JAX and the other packages, but computed nothing, so that a fork of it is
safe and starts at once. A fork imports the package and its tests anew, from the copy.
"""

import compileall
import contextlib
import gc
import importlib
import json
import os
import py_compile
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutants import Mutant
from targets import Stage

IsDone = Callable[[str, bool], bool]

KILLED, SURVIVED, TIMEOUT, ERROR = "killed", "survived", "timeout", "error"

_COPIED = ("flowdists", "tests", "docs", "examples", "README.md", "conftest.py", "pyproject.toml")
_NOT_COPIED = shutil.ignore_patterns("__pycache__", ".*_cache", "mutation")
_IMPORTED = ("pytest", "jax", "numpyro", "numpyro.infer.autoguide", "distrax", "optax", "arviz")
_IMPORTED_IF_THERE = ("equinox", "safetensors.numpy", "scipy.stats", "tqdm")

# On a busy machine a fork may wait much longer than it computes.
_WALL_PER_CPU_SECOND = 5
_MEMORY = 12 * 2**30  # bytes of addresses; a wrong size must not fill the machine's memory
_UNCHANGED_LIMIT = 7200.0  # seconds of computing
_POLL_SECONDS = 0.05
_LAST_LINES = 40


@dataclass
class Outcome:
    """What became of a stage, or of all stages.

    Attributes:
      result: "killed" by a failing test, "survived", "timeout", or "error": the tests could not be
        collected, or the process died.
      test: the id of the test that failed, or of the module that could not be collected.
      seconds: of computing.
      passed: seconds of computing of each test that passed or was skipped, by id.
      log: the end of what pytest printed.
    """

    result: str
    test: str = ""
    seconds: float = 0.0
    passed: dict[str, float] = field(default_factory=dict)
    log: str = ""


def prepare_process(cache: Path, data: Path) -> None:
    """Set the options that all forks share, and import what is slow to import.

    Args:
      cache: a folder for JAX's compiled programs.
      data: the folder of real data, if there is one.
    """
    defaults = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        **({"FLOWDISTS_DATA": str(data)} if data.is_dir() else {}),
    }
    os.environ |= defaults | os.environ
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    sys.dont_write_bytecode = True
    for name in _IMPORTED:
        importlib.import_module(name)
    for name in _IMPORTED_IF_THERE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy all of these pages


def copy_checkout(source: Path, folder: Path) -> None:
    """Copy what the tests need.

    Byte code is compiled here, and is checked by the hash of the source: that of a changed file is
    not used, however close the times of two changes are.
    """
    for name in _COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=_NOT_COPIED)
        elif (source / name).exists():
            shutil.copy2(source / name, folder / name)
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(folder / "flowdists", quiet=2, invalidation_mode=mode)


def run_unchanged(folder: Path, stage: Stage, earlier: list[Stage]) -> Outcome:
    """Run the tests of a stage on the copy as it is, but for those of ``earlier`` stages."""

    def is_done(test: str, is_heavy: bool) -> bool:
        return any(other.selects(test, is_heavy) for other in earlier)

    return run_stage(folder, stage, _UNCHANGED_LIMIT, is_done)


def run_mutant(folder: Path, mutant: Mutant, stages: list[Stage], limits: list[float]) -> Outcome:
    """Run stage after stage on the copy in ``folder``, until one kills the mutant."""
    total = Outcome(SURVIVED)
    with _planted(folder, mutant):
        for stage, limit in zip(stages, limits, strict=True):
            outcome = run_stage(folder, stage, limit, lambda test, _: test in total.passed)
            total.seconds += outcome.seconds
            total.passed |= outcome.passed
            if outcome.result != SURVIVED:
                total.result, total.test, total.log = outcome.result, outcome.test, outcome.log
                break
    return total


@contextlib.contextmanager
def _planted(folder: Path, mutant: Mutant) -> Iterator[None]:
    path = folder / mutant.file
    original = path.read_bytes()
    path.write_bytes(mutant.apply(original))
    try:
        yield
    finally:
        path.write_bytes(original)


def run_stage(folder: Path, stage: Stage, limit: float, is_done: IsDone) -> Outcome:
    """Run the tests of a stage that are not done yet, up to the first that fails.

    Args:
      folder: a copy of the checkout.
      stage: which tests.
      limit: seconds of computing, after which it is stopped.
      is_done: whether a test, given its id and whether it is heavy, need not run again.
    """
    report = folder / "outcome.json"
    log = folder / "pytest.log"
    report.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _be_child(folder, stage, limit, is_done, report, log)
    try:
        status, seconds = _wait(child, _WALL_PER_CPU_SECOND * limit)
    except BaseException:
        _kill(child)
        raise
    outcome = _read(report, status)
    outcome.seconds = seconds
    outcome.log = "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
    return outcome


def _wait(child: int, wall_limit: float) -> tuple[int | None, float]:
    """Status and seconds of computing of a child; the status is None if it took too long."""
    end = time.monotonic() + wall_limit
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            # Processes that a test started and left behind must not go on.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            return status, usage.ru_utime + usage.ru_stime
        if time.monotonic() > end:
            _kill(child)
            return None, wall_limit
        time.sleep(_POLL_SECONDS)


def _kill(child: int) -> None:
    """Kill a child with the processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)  # it may not yet have a group of its own
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def _read(report: Path, status: int | None) -> Outcome:
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return Outcome(TIMEOUT)
    if not report.exists():
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "no report"
        return Outcome(ERROR, test=f"the process died: {how}")
    return Outcome(**json.loads(report.read_text()))


def _be_child(
    folder: Path, stage: Stage, limit: float, is_done: IsDone, report: Path, log: Path
) -> None:
    """Run pytest in this process, which then ends at once."""
    status = 1
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 10))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        own = os.path.dirname(os.path.abspath(__file__))
        sys.path[:] = [str(folder), *(path for path in sys.path if os.path.abspath(path) != own)]
        outcome = _pytest(folder, stage, is_done)
        report.write_text(json.dumps(vars(outcome)))
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _pytest(folder: Path, stage: Stage, is_done: IsDone) -> Outcome:
    import pytest

    paths = stage.paths(folder)
    if not paths:
        return Outcome(SURVIVED)
    options = ["--override-ini=addopts=", "--doctest-modules", "--strict-markers", "-m", "not slow"]
    plugins = ["-p", "no:cacheprovider", "-p", "no:junitxml", "-p", "no:pastebin"]
    watch = _Watch(stage, is_done)
    status = pytest.main(["-x", "-q", "--tb=short", *options, *plugins, *paths], plugins=[watch])
    _check_origin(folder)
    if watch.failed:
        return Outcome(KILLED, watch.failed, passed=watch.passed)
    if watch.broken or status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return Outcome(ERROR, watch.broken or f"pytest ended with status {int(status)}")
    return Outcome(SURVIVED, passed=watch.passed)


def _check_origin(folder: Path) -> None:
    """The package that the tests imported, if they came so far, must be the copy."""
    package = sys.modules.get("flowdists")
    origin = getattr(package, "__file__", None)
    if origin is not None and not Path(origin).is_relative_to(folder):
        raise RuntimeError(f"the tests imported {origin} in place of the copy in {folder}")


class _Watch:
    """A plugin of pytest that selects tests and notes what becomes of them."""

    def __init__(self, stage: Stage, is_done: IsDone) -> None:
        self._stage = stage
        self._is_done = is_done
        self._begun = 0.0
        self.passed: dict[str, float] = {}
        self.failed = ""
        self.broken = ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        # By id, because a file may have been named along with its folder; so it lost its place.
        wanted = {item.nodeid: item for item in items if self._is_wanted(item)}
        items[:] = sorted(wanted.values(), key=lambda item: self._stage.rank(item.nodeid))

    def _is_wanted(self, item: Any) -> bool:
        test = item.nodeid, item.get_closest_marker("heavy") is not None
        return self._stage.selects(*test) and not self._is_done(*test)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.broken = report.nodeid or "collection"

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._begun = time.process_time()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid
        elif report.when == "teardown" and not self.failed:
            self.passed[report.nodeid] = time.process_time() - self._begun
