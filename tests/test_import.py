"""Importing the package: what it costs, and what it says where a dependency is broken."""

import os
import subprocess
import sys

import flowdists as fd


def run(code: str, path: str = "") -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, [path, *sys.path]))
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def test_a_broken_distrax_is_an_import_error_that_names_the_versions(tmp_path):
    (tmp_path / "distrax.py").write_text("import jax\njax.a_name_that_was_removed\n")
    result = run("import flowdists", str(tmp_path))
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: flowdists needs distrax")
    assert "a_name_that_was_removed" in message
    assert "jax " in message


def test_heavy_packages_are_not_imported():
    heavy = ("arviz", "matplotlib", "sklearn", "equinox", "pandas")
    result = run(f"import sys, flowdists; print([m for m in {heavy} if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


def test_every_public_name_is_documented_with_an_example():
    results = {"SBIResult", "FitResult", "GuideFit", "History", "NonFiniteLossError", "TSNPEResult"}
    plain = {*results, "static"}  # nothing to call
    for name in fd.__all__:
        text = getattr(fd, name).__doc__
        assert text, name
        assert ">>>" in text or name in plain, name
