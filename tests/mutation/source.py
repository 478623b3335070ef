"""A Python file as text and as a syntax tree, and which parts of it may be changed."""

import ast
from collections.abc import Iterator

_ATOMS = (
    ast.Name,
    ast.Attribute,
    ast.Call,
    ast.Subscript,
    ast.Constant,
    ast.Tuple,
    ast.List,
    ast.Set,
    ast.Dict,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)

# What these functions return is for people to read.
_FOR_READERS = ("__repr__", "__str__", "_title", "describe", "name")
# Arguments that say how to compute something, or what to check, and not what the result is.
_TECHNICAL_KEYWORDS = ("strict", "stacklevel", "maxsize", "static_argnums", "nondiff_argnums")
_DIRECTIONS = ("forward", "inverse")


class Source:
    """The text of a file, and its syntax tree with positions in bytes.

    Attributes:
      path: of the file, relative to the checkout, with slashes.
      data: its content.
    """

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.data = data
        self._starts = [0]
        for line in data.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._tree = ast.parse(data)
        self._parents = {
            child: node for node in ast.walk(self._tree) for child in ast.iter_child_nodes(node)
        }

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where the text of ``node`` begins and ends."""
        start = self._starts[node.lineno - 1] + node.col_offset
        return start, self._starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        """The text of ``node``, without parentheses around it."""
        return self.between(*self.span(node))

    def between(self, start: int, end: int) -> str:
        """The text from one position to another."""
        return self.data[start:end].decode()

    def operand(self, node: ast.AST) -> str:
        """The text of ``node``, in parentheses where operators around it could tear it apart."""
        return self.text(node) if isinstance(node, _ATOMS) else f"({self.text(node)})"

    def parent(self, node: ast.AST) -> ast.AST:
        """The node right above ``node``."""
        return self._parents[node]

    def nodes(self) -> Iterator[ast.AST]:
        """Every node that may be changed, in the order of the text."""
        pending = [self._tree]
        while pending:
            node = pending.pop()
            yield node
            pending.extend(reversed(list(_parts(node))))


def call_name(node: ast.AST) -> str:
    """The last name of what a call calls: ``where`` of ``jnp.where(...)``; else nothing."""
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", ""))


def ends_in_error(body: list[ast.stmt]) -> bool:
    """Whether a block ends by raising an exception, so that all of it makes up the message."""
    return bool(body) and isinstance(body[-1], ast.Raise)


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below ``node`` that may be changed."""
    for part in _candidates(node):
        if not _is_left_alone(part):
            yield part


def _candidates(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.FunctionDef(name=name, body=body):
            if name not in _FOR_READERS and not ends_in_error(body):
                yield from _directions_among_defaults(node)
                yield from body
        case ast.Lambda():
            yield node.body
        case ast.ClassDef():
            # The defaults of annotated fields are choices, and no computation.
            yield from (part for part in node.body if not isinstance(part, ast.AnnAssign))
        case ast.AnnAssign():
            yield from filter(None, [node.value])
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            yield from node.orelse
        case ast.If() | ast.For() | ast.While() | ast.With() | ast.ExceptHandler():
            yield from _without_messages(node)
        case ast.Call() if call_name(node) in ("isinstance", "issubclass"):
            yield node.args[0]
        case _:
            yield from ast.iter_child_nodes(node)


def _without_messages(node: ast.AST) -> Iterator[ast.AST]:
    for _, value in ast.iter_fields(node):
        if not isinstance(value, list):
            yield from [value] if isinstance(value, ast.AST) else []
        elif not ends_in_error(value):
            yield from value


def _directions_among_defaults(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Other defaults are choices, which tests should not repeat."""
    for default in (*function.args.defaults, *function.args.kw_defaults):
        if isinstance(default, ast.Constant) and default.value in _DIRECTIONS:
            yield default


def _is_left_alone(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Raise() | ast.Assert() | ast.Delete():
            return True
        case ast.Expr(value=ast.Constant()) | ast.JoinedStr():
            return True
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name == "__all__" or _is_type_alias(node, name)
        case ast.keyword(arg=name):
            return name in _TECHNICAL_KEYWORDS
        case ast.Expr(value=ast.Call()):
            return False
        case ast.Call():
            return call_name(node) == "warn"
    return False


def _is_type_alias(node: ast.Assign, name: str) -> bool:
    """Such as ``Shape = tuple[int, ...]``, at the outermost level."""
    is_camel_case = name[0].isupper() and not name.isupper()
    return is_camel_case and node.col_offset == 0
