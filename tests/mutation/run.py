"""Plant small errors in the package, one at a time, and see whether the tests notice them.

See the README of this folder.
"""

import argparse
import contextlib
import json
import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import report
import targets
import trial
from mutants import Mutant, all_mutants, draw

Records = dict[int, dict[str, Any]]

# A mutant may make the tests slower than they are, but not by much more than this.
_SLOWER = 3.0


def main() -> int:
    """Run the command; the exit status is 1 if the tests fail without any mutant."""
    options = _parse()
    if options.list:
        print(report.listing(_chosen(options.source, options)))
        return 0
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as name:
        scratch = Path(name).resolve()
        original = scratch / "original"
        trial.copy_checkout(options.source, original)
        mutants = _chosen(original, options)
        records = _read_records(options.output, mutants)
        left = [mutant for mutant in mutants if mutant.id not in records]
        if left and not _run(left, records, scratch, options):
            return 1
        print(report.summary(original, mutants, records))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--number", type=int, default=200, help="how many mutants to draw")
    add("--seed", type=int, default=0, help="of the draw")
    add("--workers", type=int, default=2, help="how many to run at a time")
    add("--only", metavar="GLOB", help="only mutants of matching files")
    add("--ids", type=_ids, metavar="3,17", help="these mutants, and no draw")
    add(
        "--source", type=_folder, default=_own_checkout(), help="the checkout; this one if left out"
    )
    add(
        "--output", type=Path, default=Path("mutants.jsonl"), help="results, a line for each mutant"
    )
    add("--list", action="store_true", help="print the mutants and run nothing")
    add("--stages", type=int, metavar="N", help="only the first stages of tests of each file")
    add("--timeout", type=float, default=300.0, help="seconds of computing for a stage of tests")
    add("--no-baseline", action="store_true", help="do not run the tests without mutants first")
    add("--cache", type=Path, help="a folder for JAX's compiled programs, to keep them")
    return parser.parse_args()


def _ids(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _folder(text: str) -> Path:
    return Path(text).resolve()


def _own_checkout() -> Path:
    return Path(__file__).resolve().parents[2]


def _chosen(root: Path, options: argparse.Namespace) -> list[Mutant]:
    """The mutants that the options ask for."""
    mutants = all_mutants(root, targets.files(root))
    if options.ids is not None:
        by_id = {mutant.id: mutant for mutant in mutants}
        return [by_id[number] for number in options.ids]
    wanted = (m for m in draw(mutants, options.seed) if fnmatch(m.file, options.only or "*"))
    return list(wanted)[: options.number]


def _read_records(output: Path, mutants: list[Mutant]) -> Records:
    """The results of an earlier run, as far as they are of the same mutants."""
    expected = {mutant.id: mutant.record() for mutant in mutants}
    records: Records = {}
    if output.exists():
        for line in output.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a run cut short
                record = json.loads(line)
                known = expected.get(record["id"], {})
                if known and known.items() <= record.items():
                    records[record["id"]] = record
    return records


def _run(
    mutants: list[Mutant], records: Records, scratch: Path, options: argparse.Namespace
) -> bool:
    """Try the mutants, adding to ``records``; False if the tests fail without them."""
    cache = options.cache or scratch / "jax"
    trial.prepare_process(cache.resolve(), options.source.parent / "shared" / "data")
    with _pool(options.workers, scratch) as pool:
        seconds = {} if options.no_baseline else _baseline(pool, mutants, options.stages)
        if seconds is None:
            return False
        tasks = [_task(mutant, seconds, options) for mutant in mutants]
        with options.output.open("a") as output:
            for mutant, outcome in _outcomes(pool, tasks):
                record = mutant.record() | {
                    "result": outcome.result,
                    "test": outcome.test,
                    "seconds": round(outcome.seconds, 1),
                }
                records[mutant.id] = record
                print(json.dumps(record), file=output, flush=True)
    return True


def _baseline(pool: Any, mutants: list[Mutant], num_stages: int | None) -> dict[str, float] | None:
    """Run the tests without a mutant: seconds of each, or None, with a message, if one fails."""
    stages = targets.all_stages([mutant.file for mutant in mutants], num_stages)
    seconds: dict[str, float] = {}
    tasks = [(stage, stages[:i]) for i, stage in enumerate(stages)]
    for i, (stage, outcome) in enumerate(pool.imap_unordered(_run_unchanged, tasks), start=1):
        _show(f"without mutants: {i} of {len(tasks)} stages")
        seconds |= outcome.passed
        if outcome.result != trial.SURVIVED:
            print(
                f"\n{outcome.log}\n\nThe tests {stage.name!r} do not pass without any mutant: "
                f"{outcome.result} {outcome.test}",
                file=sys.stderr,
            )
            return None
    _show(f"without mutants: {len(seconds)} tests in {sum(seconds.values()):.0f} s\n")
    return seconds


def _task(mutant: Mutant, seconds: dict[str, float], options: argparse.Namespace) -> tuple:
    stages = targets.stages(mutant.file)[: options.stages]
    limits = [
        options.timeout + _SLOWER * sum(s for test, s in seconds.items() if stage.selects(test))
        for stage in stages
    ]
    return mutant, stages, limits


def _outcomes(pool: Any, tasks: list[tuple]) -> Iterator[tuple[Mutant, trial.Outcome]]:
    """Each mutant with what became of it, as they come in."""
    counts = dict.fromkeys((trial.KILLED, trial.SURVIVED, trial.TIMEOUT, trial.ERROR), 0)
    for i, (mutant, outcome) in enumerate(pool.imap_unordered(_run_mutant, tasks), start=1):
        counts[outcome.result] += 1
        results = ", ".join(f"{count} {result}" for result, count in counts.items())
        _show(
            f"{i} of {len(tasks)}: {results}; {mutant.file}:{mutant.line} {outcome.seconds:.0f} s"
        )
        yield mutant, outcome
    _show("\n")


def _show(text: str) -> None:
    """Write over the line of the progress."""
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# In a worker: its copy of the checkout.
_copy: Path


def _pool(workers: int, scratch: Path) -> Any:
    """Workers, each a fork of this process with a copy of the checkout of its own."""
    return multiprocessing.get_context("fork").Pool(workers, _start_worker, [scratch])


def _start_worker(scratch: Path) -> None:
    global _copy
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _copy = Path(tempfile.mkdtemp(dir=scratch)) / "checkout"
    trial.copy_checkout(scratch / "original", _copy)


def _run_mutant(task: tuple) -> tuple[Mutant, trial.Outcome]:
    mutant, stages, limits = task
    return mutant, trial.run_mutant(_copy, mutant, stages, limits)


def _run_unchanged(task: tuple) -> tuple[targets.Stage, trial.Outcome]:
    stage, earlier = task
    return stage, trial.run_unchanged(_copy, stage, earlier)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on from here")
