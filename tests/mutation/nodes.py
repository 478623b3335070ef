"""Questions about one node of a file: what kind of value it is, and where it stands."""

import ast

from source import Source, call_name

_TAKING_AXES = (
    *("moveaxis", "swapaxes", "expand_dims", "squeeze", "stack", "concatenate"),
    *("sum", "mean", "prod", "max", "min", "all", "any"),
)


def is_sequence(source: Source, node: ast.BinOp) -> bool:
    """Whether the operands look like tuples, lists or strings, not like numbers."""
    kinds = (ast.Tuple, ast.List, ast.ListComp, ast.JoinedStr)
    for side in sides_of(node):
        is_part = isinstance(side, ast.Subscript) and isinstance(side.slice, ast.Slice)
        if isinstance(side, kinds) or is_part or _is_string(side):
            return True
        if isinstance(side, ast.Name) and "shape" in side.id:
            return True
    return False


def is_text(node: ast.BinOp) -> bool:
    return any(_is_string(side) or isinstance(side, ast.JoinedStr) for side in sides_of(node))


def is_number(node: ast.AST, value: float) -> bool:
    return isinstance(node, ast.Constant) and node.value == value


def is_numeric(source: Source, node: ast.Name) -> bool:
    """Whether the name stands in a formula, not in a comparison or in a signature."""
    parent = source.parent(node)
    return isinstance(parent, ast.BinOp) or call_name(parent) in ("where", "tile")


def is_typing(test: ast.AST) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def is_whole_test(source: Source, node: ast.AST) -> bool:
    """Whether ``node`` is all of a condition: to negate it is to exchange the branches."""
    parent = source.parent(node)
    return isinstance(parent, ast.If | ast.IfExp) and parent.test is node


def is_axis(source: Source, node: ast.AST) -> bool:
    """Whether a number says which axis, by itself or in a tuple."""
    parent = source.parent(node)
    if isinstance(parent, ast.Tuple):
        node, parent = parent, source.parent(parent)
    if isinstance(parent, ast.keyword):
        return parent.arg in ("axis", "axes")
    is_method = isinstance(parent, ast.Call) and isinstance(parent.func, ast.Attribute)
    return is_method and call_name(parent) in _TAKING_AXES and node in parent.args


def is_step(source: Source, node: ast.AST) -> bool:
    parent = source.parent(node)
    return isinstance(parent, ast.Slice) and parent.step is node


def differ(source: Source, node: ast.Attribute) -> bool:
    """Whether the two sides of an object can differ: not those of a map of scalars."""
    owner = source.text(node.value)
    if owner.endswith("transformer"):
        return node.attr not in ("domain", "codomain")
    if owner == "self" and node.attr.startswith("event_ndims"):
        return any(f"def event_{name}_out".encode() in source.data for name in ("shape", "ndims"))
    return True


def sides_of(node: ast.BinOp | ast.AugAssign) -> tuple[ast.AST, ast.AST]:
    if isinstance(node, ast.AugAssign):
        return node.target, node.value
    return node.left, node.right


def whole_number(source: Source, node: ast.AST) -> int | None:
    """The whole number that ``node`` is, sign included, if it is one."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = getattr(node.operand, "value", None)
        return -value if type(value) is int else None
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return None if _is_negated(source.parent(node)) else node.value
    return None


def names_read(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_negated(parent: ast.AST) -> bool:
    return isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.USub)
