"""The small errors that are planted: each operator proposes new text for a node of a file.

An operator is a generator ``(source, node) -> (node, new text)``. It is asked about every node that
may be changed, and yields nothing where it does not apply.
"""

import ast
import re
from collections.abc import Callable

from edits import SYMBOLS, Edits, exchanged, exchanged_comparisons, swapped
from nodes import (
    differ,
    is_axis,
    is_number,
    is_numeric,
    is_sequence,
    is_step,
    is_text,
    is_typing,
    is_whole_test,
    names_read,
    whole_number,
)
from source import Source, call_name, ends_in_error

Operator = Callable[[Source, ast.AST], Edits]


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
        case ast.BinOp() if not is_sequence(source, node):
            yield from exchanged(source, node, _SIGNS)
        case ast.AugAssign():
            yield from exchanged(source, node, _SIGNS)
        case ast.UnaryOp(op=ast.USub(), operand=operand) if whole_number(source, node) is None:
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
    if not isinstance(node, ast.BinOp) or is_text(node):
        return
    if isinstance(node.op, _WITH_NEUTRAL_LEFT) and is_number(node.left, 1):
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
        case ast.BinOp() if not is_sequence(source, node):
            yield from exchanged(source, node, _FACTORS)


def mask(source: Source, node: ast.AST) -> Edits:
    """``~mask``, ``&`` and ``|``, and the complement of what is called a mask."""
    match node:
        case ast.UnaryOp(op=ast.Invert()):
            yield node, source.operand(node.operand)
        case ast.BinOp():
            yield from exchanged(source, node, _MASKS)
        case ast.Name(id="mask", ctx=ast.Load()) if is_numeric(source, node):
            yield node, "(1 - mask)"


def axis(source: Source, node: ast.AST) -> Edits:
    """Another axis, and a matrix that is not transposed."""
    match node:
        case ast.Attribute(attr="T"):
            yield node, source.operand(node.value)
    value = whole_number(source, node)
    if value is not None and is_axis(source, node):
        yield node, str(0 if value == -1 else value + 1)


def integer(source: Source, node: ast.AST) -> Edits:
    """Whole numbers off by one: indices, orders, exponents, ends of ranges and of slices."""
    value = whole_number(source, node)
    if value is None or is_axis(source, node) or is_step(source, node):
        return
    if call_name(source.parent(node)) != "reshape" and value < _LEAST_SIZE:
        yield node, str(value + 1 if value >= 0 else value - 1)


def bound(source: Source, node: ast.AST) -> Edits:
    """Slices that are one too long or start one late, ranges that are one too short."""
    match node:
        case ast.Slice(lower=lower, upper=upper):
            for end in filter(None, (lower, upper)):
                if whole_number(source, end) is None:
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
        yield from exchanged_comparisons(source, node, _BOUNDARIES)


def equality(source: Source, node: ast.AST) -> Edits:
    """``==`` and ``!=``, ``is`` and ``is not``, ``in`` and ``not in``."""
    if isinstance(node, ast.Compare) and not is_whole_test(source, node):
        yield from exchanged_comparisons(source, node, _EQUALITIES)


def logic(source: Source, node: ast.AST) -> Edits:
    """``and`` and ``or``, each condition left out, ``not x`` as ``x``."""
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = [source.operand(value) for value in values]
            symbol = SYMBOLS[type(op)]
            other = "or" if symbol == "and" else "and"
            # In parentheses, because the operators around it may bind more closely.
            yield node, f"({f' {other} '.join(parts)})"
            for i in range(len(parts)):
                left = parts[:i] + parts[i + 1 :]
                yield node, left[0] if len(left) == 1 else f"({f' {symbol} '.join(left)})"
        case ast.UnaryOp(op=ast.Not()) if not is_whole_test(source, node):
            yield node, source.operand(node.operand)


def branches(source: Source, node: ast.AST) -> Edits:
    """The two branches of a condition exchanged, and a filter that lets everything pass."""
    match node:
        case ast.IfExp(body=first, orelse=second):
            yield node, swapped(source, node, first, second)
        case ast.If(test=test, body=body) if not ends_in_error(body) and not is_typing(test):
            yield test, f"not {source.operand(test)}"
        case ast.Call(args=[_, first, second, *_]) if call_name(node) in ("where", "cond"):
            yield node, swapped(source, node, first, second)
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
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in _SIDES and differ(source, node):
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
            if not isinstance(value, ast.BinOp) and name in names_read(value):
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
