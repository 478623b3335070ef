"""The mutants of small pieces of code, each written out."""

import pytest
from mutants import Mutant, draw
from operators import OPERATORS
from source import Source


def mutants(code: str) -> set[str]:
    """The code with each error in it, in turn."""
    source = Source("code.py", code.encode())
    results = set()
    for node in source.nodes():
        for operator in OPERATORS:
            for replaced, after in operator(source, node):
                start, end = source.span(replaced)
                results.add(code.encode()[:start].decode() + after + code.encode()[end:].decode())
    return results


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a + b", {"a - b", "a", "b"}),
        ("a - b", {"a + b", "a"}),
        ("a * (b + c)", {"a / (b + c)", "a", "(b + c)", "a * (b - c)", "a * (b)", "a * (c)"}),
        ("1 - x", {"1 + x", "x", "2 - x"}),
        ("-x", {"x"}),
        ("n // 2", {"(-(-n // 2))", "n", "n // 3"}),
        ("~inside & b", {"inside & b", "~inside | b", "(~inside)", "b"}),
        ("x.sum(-1)", {"x.sum(0)", "x.mean(-1)"}),
        ("f(x, axis=1)", {"f(x, axis=2)"}),
        ("x[k:]", {"x[k + 1:]"}),
        ("x[::-1]", {"x[:]"}),
        ("x[-1]", {"x[-2]"}),
        ("range(1, n)", {"range(2, n)", "range(1, n - 1)"}),
        ("jnp.cumsum(x, axis=0)", {"jnp.cumsum(x[::-1], axis=0)[::-1]", "jnp.cumsum(x, axis=1)"}),
        ("0.5 * 0.0", {"0.75 * 0.0", "0.5 * 0.5", "0.5 / 0.0", "0.5", "0.0"}),
        ("x < y", {"x <= y"}),
        ("f(x == y)", {"f(x != y)"}),
        ("a and not b", {"(a or (not b))", "a", "(not b)", "a and b"}),
        ("x if c else y", {"y if c else x"}),
        ("jnp.where(c, x, y)", {"jnp.where(c, y, x)"}),
        ("jnp.where(c, *pair)", {"jnp.where(c, *pair[::-1])"}),
        ("jnp.exp(x)", {"jnp.expm1(x)"}),
        ('run("forward")', {'run("inverse")'}),
        ("W.T", {"W"}),
        ("total += x", {"total -= x", "pass"}),
        ("x = f(x)", {"pass"}),
        ("if c:\n    raise ValueError(1 + 1)", {"if False:\n    raise ValueError(1 + 1)"}),
        ("def f(x):\n    return x, log_det", {"def f(x):\n    return x, -log_det"}),
        ("é = (a\n  + b)  # sum", {f"é = ({new})  # sum" for new in ("a\n  - b", "a", "b")}),
    ],
)
def test_the_mutants_of(code: str, expected: set[str]):
    found = mutants(code) - ({"pass"} - expected)  # a call is also left out as a whole
    assert found == expected
    for each in found:
        compile(each.replace("return", "pass;"), "code.py", "exec")


@pytest.mark.parametrize(
    "code",
    [
        '"""One + two."""',
        "from __future__ import annotations",
        "__all__ = [1, 2]",
        "Shape = tuple[int, ...] | None",
        "def f(x: int | None = 3) -> tuple[int, ...]: ...",
        "class A:\n    size: int = 8",
        "class A:\n    def __repr__(self):\n        return str(1 + self.size)",
        "if TYPE_CHECKING:\n    x = 1 + 2",
        "@lru_cache(maxsize=2)\ndef f(): ...",
        "isinstance(x, A | B) is zip(y, strict=True)",
        'f"{1 + 1}"',
    ],
)
def test_nothing_is_changed_in(code: str):
    assert mutants(code) <= {"pass", code.replace(" is ", " is not ")}


def test_first_mutants_of_a_draw_are_a_fair_sample():
    sizes = {"large.py": 900, "medium.py": 90, "small.py": 10}
    files = [file for file, size in sizes.items() for _ in range(size)]
    every = [Mutant(i, file, 1, "sign", "+", "-", i) for i, file in enumerate(files)]
    drawn = draw(every, seed=0)
    assert sorted(mutant.id for mutant in drawn) == list(range(1000))
    assert drawn == draw(every, seed=0) != draw(every, seed=1)
    for number in (100, 200, 500):
        for file, size in sizes.items():
            count = sum(mutant.file == file for mutant in drawn[:number])
            assert abs(count - number * size / 1000) <= 2
            assert count >= 1
