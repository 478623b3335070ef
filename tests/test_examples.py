"""The examples run as their users run them, and make what they say."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "Agg"}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def table(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0).normal(size=(400, 3)) @ np.array(
        [[1.0, 0.9, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 5.0]]
    )
    path = tmp_path / "table.csv"
    np.savetxt(path, draws, delimiter=",", header="a,b,c", comments="")
    return path


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
