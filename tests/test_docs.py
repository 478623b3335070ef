"""The code in the documentation: what it names exists, and takes the arguments that it is given."""

import ast
import functools
import inspect
import re
from pathlib import Path

import pytest

import flowdists as fd

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page):
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def resolve(node):
    """What an expression such as ``fd.images.encode`` is; None if it does not start at ``fd``."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not (isinstance(node, ast.Name) and node.id == "fd"):
        return None
    return functools.reduce(getattr, reversed(names), fd)


@pytest.mark.parametrize("page", [Path("README.md"), *PAGES], ids=str)
def test_code_names_what_there_is(page):
    for block in blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute):
                resolve(node)
            if not isinstance(node, ast.Call) or (function := resolve(node.func)) is None:
                continue
            spread = any(isinstance(arg, ast.Starred) for arg in node.args)
            keywords = {keyword.arg: None for keyword in node.keywords}
            if not spread and None not in keywords:
                inspect.signature(function).bind(*node.args, **keywords)
            else:
                inspect.signature(function).bind_partial(**{k: None for k in keywords if k})


@pytest.mark.parametrize(
    "page", ["README.md", "docs/concepts.md", "docs/images.md", "docs/numpyro.md", "docs/sbi.md"]
)
def test_the_code_is_found(page):
    assert blocks(page)
