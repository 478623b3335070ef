"""The small errors that are planted: each operator proposes new text for a node of a file.

An operator is a generator ``(source, node) -> (node, new text)``. It is asked about every node that
may be changed, and yields nothing where it does not apply.
"""

import ast
import re
from collections.abc import Callable, Iterator

from source import Source, call_name, ends_in_error

Edits = Iterator[tuple[ast.AST, str]]
Operator = Callable[[Source, ast.AST], Edits]

_SYMBOLS: dict[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.And: "and",
    ast.Or: "or",
}


def _both_ways(*pairs: tuple[type[ast.AST], type[ast.AST]]) -> dict[type[ast.AST], type[ast.AST]]:
    return {a: b for pair in pairs for a, b in (pair, pair[::-1])}


_SIGNS = _both_ways((ast.Add, ast.Sub))
_FACTORS = _both_ways((ast.Mult, ast.Div))
_MASKS = _both_ways((ast.BitAnd, ast.BitOr))
_BOUNDARIES = _both_ways((ast.Lt, ast.LtE), (ast.Gt, ast.GtE))
_EQUALITIES = _both_ways((ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn))
_COMMUTATIVE = (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr)
_WITH_NEUTRAL_LEFT = (ast.Sub, ast.Div)

_LOG_DET = re.compile(r"log_(det|slope|prob|scale|diagonal)|total|_sum\(")

_TAKING_AXES = (
    *("moveaxis", "swapaxes", "expand_dims", "squeeze", "stack", "concatenate"),
    *("sum", "mean", "prod", "max", "min", "all", "any"),
)

_FUNCTIONS = {
    "maximum": "minimum",
    "max": "min",
    "all": "any",
    "floor": "ceil",
    "zeros": "ones",
    "zeros_like": "ones_like",
    "scaled": "unscaled",
    "exp": "expm1",
    "log": "log1p",
}
_FUNCTIONS |= {new: old for old, new in _FUNCTIONS.items()}
_FUNCTIONS |= {"sqrt": "cbrt", "tanh": "sinh", "softplus": "relu", "log_sigmoid": "softplus"}
_METHODS = {"sum": "mean"}  # there is no such built-in function
_NEUTRAL = ("abs", "clip", "stop_gradient", "reversed")

_LEAST_SIZE = 64  # larger numbers are sizes, which were chosen: tests should not repeat them

_DIRECTIONS = {"forward": "inverse", "inverse": "forward"}
_SIDES = {
    "forward": "inverse",
    "forward_and_log_det": "inverse_and_log_det",
    "forward_shape": "inverse_shape",
    "event_ndims_in": "event_ndims_out",
    "domain": "codomain",
}
_SIDES |= {new: old for old, new in _SIDES.items()}
_SIDES["event_shape_out"] = "event_shape"  # the other way round most layers would stay the same


def sign(source: Source, node: ast.AST) -> Edits:
    """``a + b`` and ``a - b``, ``+=`` and ``-=``, and ``-a`` without its sign."""
    match node:
        case ast.BinOp() if not _is_sequence(source, node):
            yield from _exchanged(source, node, _SIGNS)
        case ast.AugAssign():
            yield from _exchanged(source, node, _SIGNS)
        case ast.UnaryOp(op=ast.USub(), operand=operand) if _integer(source, node) is None:
            yield node, source.operand(operand)


def log_det(source: Source, node: ast.AST) -> Edits:
    """A pair ``return y, log_det`` with the sign of its second part changed."""
    match node:
        case ast.Return(value=ast.Tuple(elts=[_, second])):
            is_negative = isinstance(second, ast.UnaryOp)
            if not is_negative and _LOG_DET.search(source.text(second)):
                yield second, f"-{source.operand(second)}"


def term(source: Source, node: ast.AST) -> Edits:
    """One side of an operator alone: no sum, no factor, no exponent, no remainder."""
    if not isinstance(node, ast.BinOp) or _is_text(node):
        return
    if isinstance(node.op, _WITH_NEUTRAL_LEFT) and _is_number(node.left, 1):
        yield node, source.operand(node.right)
        return
    yield node, source.operand(node.left)
    goes_on = isinstance(node.left, ast.BinOp) and type(node.left.op) is type(node.op)
    if isinstance(node.op, _COMMUTATIVE) and not goes_on:
        yield node, source.operand(node.right)


def factor(source: Source, node: ast.AST) -> Edits:
    """``a * b`` and ``a / b``; ``a // b`` rounded up."""
    match node:
        case ast.BinOp(op=ast.FloorDiv()):
            left, right = source.operand(node.left), source.operand(node.right)
            yield node, f"(-(-{left} // {right}))"
        case ast.BinOp() if not _is_sequence(source, node):
            yield from _exchanged(source, node, _FACTORS)


def mask(source: Source, node: ast.AST) -> Edits:
    """``~mask``, ``&`` and ``|``, and the complement of what is called a mask."""
    match node:
        case ast.UnaryOp(op=ast.Invert()):
            yield node, source.operand(node.operand)
        case ast.BinOp():
            yield from _exchanged(source, node, _MASKS)
        case ast.Name(id="mask", ctx=ast.Load()) if _is_numeric(source, node):
            yield node, "(1 - mask)"


def axis(source: Source, node: ast.AST) -> Edits:
    """Another axis, and a matrix that is not transposed."""
    match node:
        case ast.Attribute(attr="T"):
            yield node, source.operand(node.value)
    value = _integer(source, node)
    if value is not None and _is_axis(source, node):
        yield node, str(0 if value == -1 else value + 1)


def integer(source: Source, node: ast.AST) -> Edits:
    """Whole numbers off by one: indices, orders, exponents, ends of ranges and of slices."""
    value = _integer(source, node)
    if value is None or _is_axis(source, node) or _is_step(source, node):
        return
    if call_name(source.parent(node)) != "reshape" and value < _LEAST_SIZE:
        yield node, str(value + 1 if value >= 0 else value - 1)


def bound(source: Source, node: ast.AST) -> Edits:
    """Slices that are one too long or start one late, ranges that are one too short."""
    match node:
        case ast.Slice(lower=lower, upper=upper):
            for end in filter(None, (lower, upper)):
                if _integer(source, end) is None:
                    yield end, f"{source.operand(end)} + 1"
        case ast.Call(args=[*_, last]) if call_name(node) in ("range", "arange"):
            if not isinstance(last, ast.Constant | ast.Starred):
                yield last, f"{source.operand(last)} - 1"


def order(source: Source, node: ast.AST) -> Edits:
    """Sequences not turned around, sums from the other end, the inverse of a permutation."""
    match node:
        case ast.Slice(lower=None, upper=None, step=ast.UnaryOp()):
            yield node, ":"
        case ast.Call(args=[first, *_]) if call_name(node) == "cumsum":
            start, end = source.span(first)
            head = source.between(source.span(node)[0], start)
            tail = source.between(end, source.span(node)[1])
            yield node, f"{head}{source.operand(first)}[::-1]{tail}[::-1]"
        case ast.Call(args=[_]) if call_name(node) == "argsort":
            yield node, f"{source.text(node.func)}({source.text(node)})"


def number(source: Source, node: ast.AST) -> Edits:
    """Another floating-point constant, and a number where there was none."""
    match node:
        case ast.Constant(value=float(value)):
            yield node, repr(round(1.5 * value, 12) if value else 0.5)
        case ast.Attribute(attr="nan"):
            yield node, "0.0"


def boundary(source: Source, node: ast.AST) -> Edits:
    """``<`` and ``<=``, ``>`` and ``>=``."""
    if isinstance(node, ast.Compare):
        yield from _exchanged_comparisons(source, node, _BOUNDARIES)


def equality(source: Source, node: ast.AST) -> Edits:
    """``==`` and ``!=``, ``is`` and ``is not``, ``in`` and ``not in``."""
    if isinstance(node, ast.Compare) and not _is_whole_test(source, node):
        yield from _exchanged_comparisons(source, node, _EQUALITIES)


def logic(source: Source, node: ast.AST) -> Edits:
    """``and`` and ``or``, each condition left out, ``not x`` as ``x``."""
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = [source.operand(value) for value in values]
            symbol = _SYMBOLS[type(op)]
            other = "or" if symbol == "and" else "and"
            # In parentheses, because the operators around it may bind more closely.
            yield node, f"({f' {other} '.join(parts)})"
            for i in range(len(parts)):
                left = parts[:i] + parts[i + 1 :]
                yield node, left[0] if len(left) == 1 else f"({f' {symbol} '.join(left)})"
        case ast.UnaryOp(op=ast.Not()) if not _is_whole_test(source, node):
            yield node, source.operand(node.operand)


def branches(source: Source, node: ast.AST) -> Edits:
    """The two branches of a condition exchanged, and a filter that lets everything pass."""
    match node:
        case ast.IfExp(body=first, orelse=second):
            yield node, _swapped(source, node, first, second)
        case ast.If(test=test, body=body) if not ends_in_error(body) and not _is_typing(test):
            yield test, f"not {source.operand(test)}"
        case ast.Call(args=[_, first, second, *_]) if call_name(node) in ("where", "cond"):
            yield node, _swapped(source, node, first, second)
        case ast.Call(args=[_, ast.Starred(value=pair)]) if call_name(node) == "where":
            yield pair, f"{source.operand(pair)}[::-1]"
        case ast.comprehension(ifs=conditions):
            yield from ((condition, "True") for condition in conditions)


def guard(source: Source, node: ast.AST) -> Edits:
    """A check that never fails."""
    match node:
        case ast.If(test=test, body=body) if ends_in_error(body):
            yield test, "False"


def function(source: Source, node: ast.AST) -> Edits:
    """One function in place of another, and functions left out."""
    if not isinstance(node, ast.Call):
        return
    name = call_name(node)
    is_attribute = isinstance(node.func, ast.Attribute)
    new = _FUNCTIONS.get(name) or (is_attribute and _METHODS.get(name))
    if new:
        yield node.func, source.text(node.func).removesuffix(name) + new
    if name in _NEUTRAL and node.args:
        yield node, source.operand(node.args[0])


def direction(source: Source, node: ast.AST) -> Edits:
    """The other direction of a map, or its other side."""
    match node:
        case ast.Constant(value=str(value)) if value in _DIRECTIONS:
            yield node, f'"{_DIRECTIONS[value]}"'
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in _SIDES and _differ(source, node):
            yield node, f"{source.operand(node.value)}.{_SIDES[name]}"


def boolean(source: Source, node: ast.AST) -> Edits:
    """``True`` and ``False``."""
    match node:
        case ast.Constant(value=bool(value)):
            yield node, str(not value)


def statement(source: Source, node: ast.AST) -> Edits:
    """A step left out: a sum not continued, a value not converted, a call not made."""
    match node:
        case ast.AugAssign() | ast.Expr(value=ast.Call()):
            yield node, "pass"
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            if not isinstance(value, ast.BinOp) and name in _names_read(value):
                yield node, "pass"


OPERATORS: tuple[Operator, ...] = (
    sign,
    log_det,
    term,
    factor,
    mask,
    axis,
    integer,
    bound,
    order,
    number,
    boundary,
    equality,
    logic,
    branches,
    guard,
    function,
    direction,
    boolean,
    statement,
)


def _exchanged(
    source: Source,
    node: ast.BinOp | ast.AugAssign,
    exchanges: dict[type[ast.AST], type[ast.AST]],
) -> Edits:
    new = exchanges.get(type(node.op))
    if new is not None:
        yield node, _with_symbol(source, node, _sides(node), type(node.op), new)


def _exchanged_comparisons(
    source: Source, node: ast.Compare, exchanges: dict[type[ast.AST], type[ast.AST]]
) -> Edits:
    sides = [node.left, *node.comparators]
    for old, *pair in zip(node.ops, sides, sides[1:], strict=False):
        new = exchanges.get(type(old))
        if new is not None:
            yield node, _with_symbol(source, node, pair, type(old), new)


def _with_symbol(
    source: Source, node: ast.AST, sides: tuple[ast.AST, ...], old: type, new: type
) -> str:
    """The text of ``node`` with another operator between the two ``sides``."""
    start, end = source.span(sides[0])[1], source.span(sides[1])[0]
    middle = source.between(start, end).replace(_SYMBOLS[old], _SYMBOLS[new], 1)
    whole = source.span(node)
    return source.between(whole[0], start) + middle + source.between(end, whole[1])


def _swapped(source: Source, node: ast.AST, first: ast.AST, second: ast.AST) -> str:
    """The text of ``node`` with two of its parts exchanged, whichever comes first."""
    (a, b), (c, d) = source.span(first), source.span(second)
    start, end = source.span(node)
    texts = [_whole(source, part) for part in (second, first)]
    return "".join(
        [source.between(start, a), texts[0], source.between(b, c), texts[1], source.between(d, end)]
    )


def _sides(node: ast.BinOp | ast.AugAssign) -> tuple[ast.AST, ast.AST]:
    if isinstance(node, ast.AugAssign):
        return node.target, node.value
    return node.left, node.right


def _whole(source: Source, node: ast.AST) -> str:
    text = source.text(node)
    return f"({text})" if isinstance(node, ast.IfExp | ast.Lambda) else text


def _is_sequence(source: Source, node: ast.BinOp) -> bool:
    """Whether the operands look like tuples, lists or strings, not like numbers."""
    kinds = (ast.Tuple, ast.List, ast.ListComp, ast.JoinedStr)
    for side in _sides(node):
        is_part = isinstance(side, ast.Subscript) and isinstance(side.slice, ast.Slice)
        if isinstance(side, kinds) or is_part or _is_string(side):
            return True
        if isinstance(side, ast.Name) and "shape" in side.id:
            return True
    return False


def _is_text(node: ast.BinOp) -> bool:
    return any(_is_string(side) or isinstance(side, ast.JoinedStr) for side in _sides(node))


def _differ(source: Source, node: ast.Attribute) -> bool:
    """Whether the two sides of an object can differ: not those of a map of scalars."""
    owner = source.text(node.value)
    if owner.endswith("transformer"):
        return node.attr not in ("domain", "codomain")
    if owner == "self" and node.attr.startswith("event_ndims"):
        return any(f"def event_{name}_out".encode() in source.data for name in ("shape", "ndims"))
    return True


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_number(node: ast.AST, value: float) -> bool:
    return isinstance(node, ast.Constant) and node.value == value


def _is_numeric(source: Source, node: ast.Name) -> bool:
    """Whether the name stands in a formula, not in a comparison or in a signature."""
    parent = source.parent(node)
    return isinstance(parent, ast.BinOp) or call_name(parent) in ("where", "tile")


def _is_typing(test: ast.AST) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _is_whole_test(source: Source, node: ast.AST) -> bool:
    """Whether ``node`` is all of a condition: to negate it is to exchange the branches."""
    parent = source.parent(node)
    return isinstance(parent, ast.If | ast.IfExp) and parent.test is node


def _integer(source: Source, node: ast.AST) -> int | None:
    """The whole number that ``node`` is, sign included, if it is one."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = getattr(node.operand, "value", None)
        return -value if type(value) is int else None
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return None if _is_negated(source.parent(node)) else node.value
    return None


def _is_negated(parent: ast.AST) -> bool:
    return isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.USub)


def _is_axis(source: Source, node: ast.AST) -> bool:
    """Whether a number says which axis, by itself or in a tuple."""
    parent = source.parent(node)
    if isinstance(parent, ast.Tuple):
        node, parent = parent, source.parent(parent)
    if isinstance(parent, ast.keyword):
        return parent.arg in ("axis", "axes")
    is_method = isinstance(parent, ast.Call) and isinstance(parent.func, ast.Attribute)
    return is_method and call_name(parent) in _TAKING_AXES and node in parent.args


def _is_step(source: Source, node: ast.AST) -> bool:
    parent = source.parent(node)
    return isinstance(parent, ast.Slice) and parent.step is node


def _names_read(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
