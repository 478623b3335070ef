"""The examples run as their users run them, and make what they say."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flowdists as fd
from tests.test_docs import resolve

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "Agg"}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_names_what_there_is(path):
    """Short of running it: every ``fd.name``, and every name imported from the package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            resolve(node)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("flowdists"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0).normal(size=(400, 3)) @ np.array(
        [[1.0, 0.9, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 5.0]]
    )
    path = tmp_path / "table.csv"
    np.savetxt(path, draws, delimiter=",", header="a,b,c", comments="")
    return path


@pytest.mark.slow
def test_quickstart_on_a_csv(table, tmp_path):
    output = run("quickstart.py", table, "--epochs", 2, "--output", tmp_path)
    assert "360 rows to fit, 40 held out, 3 columns" in output
    assert "differ by 0.0" in output
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000
    assert (tmp_path / "quickstart.safetensors").exists()


@pytest.mark.slow
def test_quickstart_on_its_own_table_beats_the_mixture(tmp_path):
    output = run("quickstart.py", "--output", tmp_path)
    scores = {
        line.split("  (")[0].rsplit(maxsplit=1)[0].strip(): float(line.split("  (")[0].split()[-1])
        for line in output.splitlines()
        if "(+/-" in line
    }
    assert scores["neural spline flow"] > scores["mixture of 20 Gaussians"] > scores["Gaussian"]


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line)]


def line_of(output: str, start: str) -> str:
    return next(line for line in output.splitlines() if line.strip().startswith(start))


@pytest.mark.slow
def test_funnel(tmp_path):
    output = run("funnel.py", "--draws", 4000, "--output", tmp_path)
    elbos = {name: numbers(line_of(output, name))[0] for name in ("AutoMultiv", "AutoFlow")}
    assert elbos["AutoFlow"] > max(elbos["AutoMultiv"], -31.65)
    ours_mean, ours_deviation, mean, deviation = numbers(line_of(output, "theta[0]"))
    assert abs(ours_mean - mean) < 0.15 * deviation
    assert abs(ours_deviation / deviation - 1) < 0.2
    assert (tmp_path / "funnel.png").stat().st_size > 10_000


@pytest.mark.slow
def test_learned_prior(tmp_path):
    output = run("learned_prior.py", "--draws", 2000, "--output", tmp_path)
    together, flow = (
        numbers(line_of(output, name)) for name in ("A and B together", "B, with the flow")
    )
    for mean, deviation, other_mean, other_deviation in zip(
        together[::2], together[1::2], flow[::2], flow[1::2], strict=True
    ):
        assert abs(other_mean - mean) < 0.25 * deviation
        assert abs(other_deviation / deviation - 1) < 0.25
    assert (tmp_path / "learned_prior.png").stat().st_size > 10_000


@pytest.mark.slow
def test_neutra_dual_moon(tmp_path):
    output = run("neutra_dual_moon.py", "--output", tmp_path)
    changes, more_changes = (
        int(re.search(r"(\d+) changes of moon", line)[1])
        for line in output.splitlines()
        if "changes of moon" in line
    )
    assert more_changes > 20 * max(changes, 1)
    elbo, log_evidence = numbers(line_of(output, "guide: ELBO"))
    assert log_evidence - 0.25 < elbo < log_evidence + 0.02
    assert (tmp_path / "neutra_dual_moon.png").stat().st_size > 10_000


@pytest.mark.slow
def test_vae_runs(tmp_path):
    output = run("vae.py", "--data", tmp_path, "--steps", 50, "--output", tmp_path)
    assert "scikit-learn's digits instead" in output
    for name in ("Gaussian posterior and prior", "flow posterior", "flow posterior and prior"):
        assert np.isfinite(numbers(line_of(output, name))[0])
    assert (tmp_path / "vae.png").exists()


@pytest.mark.slow
def test_hierarchical_regression_runs():
    output = run("hierarchical_regression.py", "--groups", 60, "--steps", 100, "--draws", 100)
    for effects in ("intercepts", "slopes"):
        assert np.isfinite(numbers(line_of(output, effects))).all()


@pytest.mark.slow
def test_glow_images_runs_and_resumes(tmp_path):
    draws = np.random.default_rng(0)
    labels = draws.permutation(np.repeat([3, 8], 40))
    images = (draws.integers(0, 100, (80, 9, 8)) + 15 * labels[:, None, None]).astype(np.uint8)
    path, output = tmp_path / "images.npz", tmp_path / "out"
    np.savez(path, index=np.arange(80.0), pictures=images, classes=labels)
    command = [path, "--minutes", 0.01, "--steps-per-scale", 1, "--hidden-channels", 4]
    command += ["--batch-size", 4, "--output", output]

    first = run("glow_images.py", *command)
    assert "72 images of (8, 8, 1), 8 held out" in first
    assert "2 classes: 3, 8" in first
    steps = int(re.search(r"trained for (\d+) steps", first)[1])
    assert numbers(line_of(first, "held out"))[0] < 6.0
    assert float(re.search(r"at most (\S+) of 256", first)[1]) < 0.01
    for name in ("samples", "temperatures", "reconstructions", "interpolations", "training"):
        assert (output / f"glow_{name}.png").stat().st_size > 1000

    second = run("glow_images.py", *command)
    assert f"resumed at step {steps}" in second
    assert int(re.search(r"trained for (\d+) steps", second)[1]) > steps
    assert fd.load(output / "glow.safetensors").num_classes == 2


@pytest.mark.slow
def test_sbi_is_calibrated(tmp_path):
    output = run("sbi.py", "--simulations", 5000, "--epochs", 20, "--output", tmp_path)
    covered = [numbers(line)[0] for line in output.splitlines() if "cover" in line]
    assert abs(covered[0] - 50) < 15 and abs(covered[1] - 90) < 10
    for name in ("sbi_calibration.png", "sbi_posterior.png"):
        assert (tmp_path / name).stat().st_size > 10_000
