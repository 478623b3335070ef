"""New text for a node, made of the text of its parts."""

import ast
from collections.abc import Iterator

from nodes import sides_of
from source import Source

Edits = Iterator[tuple[ast.AST, str]]

SYMBOLS: dict[type[ast.AST], str] = {
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


def exchanged(
    source: Source,
    node: ast.BinOp | ast.AugAssign,
    exchanges: dict[type[ast.AST], type[ast.AST]],
) -> Edits:
    new = exchanges.get(type(node.op))
    if new is not None:
        yield node, _with_symbol(source, node, sides_of(node), type(node.op), new)


def exchanged_comparisons(
    source: Source, node: ast.Compare, exchanges: dict[type[ast.AST], type[ast.AST]]
) -> Edits:
    sides = [node.left, *node.comparators]
    for old, *pair in zip(node.ops, sides, sides[1:], strict=False):
        new = exchanges.get(type(old))
        if new is not None:
            yield node, _with_symbol(source, node, pair, type(old), new)


def swapped(source: Source, node: ast.AST, first: ast.AST, second: ast.AST) -> str:
    """The text of ``node`` with two of its parts exchanged, whichever comes first."""
    (a, b), (c, d) = source.span(first), source.span(second)
    start, end = source.span(node)
    texts = [_whole(source, part) for part in (second, first)]
    return "".join(
        [source.between(start, a), texts[0], source.between(b, c), texts[1], source.between(d, end)]
    )


def _with_symbol(
    source: Source, node: ast.AST, sides: tuple[ast.AST, ...], old: type, new: type
) -> str:
    """The text of ``node`` with another operator between the two ``sides``."""
    start, end = source.span(sides[0])[1], source.span(sides[1])[0]
    middle = source.between(start, end).replace(SYMBOLS[old], SYMBOLS[new], 1)
    whole = source.span(node)
    return source.between(whole[0], start) + middle + source.between(end, whole[1])


def _whole(source: Source, node: ast.AST) -> str:
    text = source.text(node)
    return f"({text})" if isinstance(node, ast.IfExp | ast.Lambda) else text
