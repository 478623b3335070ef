"""The directive ``public-api``: document what ``flowdists`` exports, module by module.

``.. public-api:: flowdists.recipes`` documents every name of ``flowdists.__all__`` that is defined
under one of the modules given, in the order of ``__all__``. A public name that no page takes is a
warning, hence an error of the build: the reference cannot fall behind the package.
"""

import inspect
from types import ModuleType
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature

import flowdists

logger = logging.getLogger(__name__)


def public_names() -> list[str]:
    """The package's public objects; submodules and dunders are not documented as such."""
    names = getattr(flowdists, "__all__", ())
    return [
        name
        for name in names
        if not name.startswith("_") and not isinstance(getattr(flowdists, name), ModuleType)
    ]


def is_defined_under(name: str, modules: list[str]) -> bool:
    home = getattr(getattr(flowdists, name), "__module__", None) or "flowdists"
    return any(home == module or home.startswith(f"{module}.") for module in modules)


class PublicAPI(SphinxDirective):
    """Document the public names defined under some modules."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {"except": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        modules = self.arguments[0].split()
        excepted = self.options.get("except", "").split()
        names = [
            name
            for name in public_names()
            if is_defined_under(name, modules) and not is_defined_under(name, excepted)
        ]
        documented = self.env.__dict__.setdefault("flowdists_documented", set())
        documented.update(names)
        lines = ["", ".. currentmodule:: flowdists", ""]
        for name in names:
            lines += [f".. {kind(getattr(flowdists, name))}:: {name}", ""]
        container = nodes.container()
        source, _ = self.get_source_info()
        self.state.nested_parse(StringList(lines, source), self.content_offset, container)
        return container.children


def kind(obj: Any) -> str:
    if inspect.isclass(obj):
        return "autoclass"
    return "autofunction" if callable(obj) else "autodata"


def use_init_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Show a class with the signature of its ``__init__``: bijectors have a generic ``__new__``."""
    if what != "class":
        return None
    owner = next((cls for cls in obj.__mro__ if "__init__" in vars(cls)), object)
    if not owner.__module__.startswith("flowdists"):
        return "", returns
    constructor = inspect.signature(obj.__init__)
    parameters = list(constructor.parameters.values())[1:]
    shown = constructor.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    return stringify_signature(shown, unqualified_typehints=True), returns


def check_coverage(app: Sphinx, env: Any) -> None:
    missing = set(public_names()) - getattr(env, "flowdists_documented", set())
    for name in sorted(missing):
        logger.warning("flowdists.%s is public, but on no page of the API reference", name)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("public-api", PublicAPI)
    app.connect("autodoc-process-signature", use_init_signature)
    app.connect("env-check-consistency", check_coverage)
    return {"parallel_read_safe": False}
