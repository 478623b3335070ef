"""Imports run one way, and no class of layers is asked for outside of its folder."""

import ast
from pathlib import Path

import pytest

import flowdists as fd

PACKAGE = Path(fd.__file__).parent

# Each may import those after it.
ORDER = [
    "images",
    "sbi",
    "guides",
    "diagnostics",
    "training",
    "io",
    "recipes",
    "conditionals",
    "conditional_flow",
    "flow",
    "bases",
    "bijectors",
    "networks",
    "transformers",
]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
PRIVATE = {path.stem for path in PACKAGE.glob("_*.py")}


def room(path):
    """The folder or file of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """The parts of the package that a file imports at its top."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flowdists"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


def name(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_run_one_way(path):
    own = room(path)
    allowed = ORDER[ORDER.index(own) :] if own in ORDER else []
    assert set(imports(path)) - PRIVATE - {own} <= set(allowed)


LAYERS = {
    cls.__name__
    for module in (fd.bijectors, fd.images)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, fd.Bijector) and cls is not fd.Bijector
}


@pytest.mark.parametrize(
    "path", [path for path in FILES if room(path) not in ("bijectors", "io")], ids=name
)
def test_no_layer_is_asked_for_its_class(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_question = isinstance(node, ast.Call) and getattr(node.func, "id", None) == "isinstance"
        if is_question:
            asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            assert not asked & LAYERS
