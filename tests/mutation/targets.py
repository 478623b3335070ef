"""Which files are changed, and which tests are asked, in which order.

Every file has stages of tests. The first is small: the tests closest to the file, and the doctests
in it. A mutant that passes a stage goes on to the next; one that passes all of them has survived.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FILES = (
    "flowdists/bijectors/**/*.py",
    "flowdists/images/layers/*.py",
    "flowdists/conditionals/*.py",
    "flowdists/transformers/*.py",
    "flowdists/networks/made.py",
    "flowdists/_constraints.py",
    "flowdists/_events.py",
    "flowdists/flow.py",
    "flowdists/conditional_flow.py",
    "flowdists/diagnostics/importance.py",
    "flowdists/diagnostics/_scoring.py",
)


@dataclass(frozen=True)
class Tests:
    """Some tests.

    Attributes:
      pattern: a path in the checkout, which may hold wildcards; what does not exist is left out.
      words: only tests whose id holds one of these; all of them if there are none.
    """

    pattern: str
    words: tuple[str, ...] = ()

    def hold(self, test: str) -> bool:
        """Whether the test with this id is one of them."""
        path = Path(test.split("::")[0])
        depth = len(Path(self.pattern).parts)
        is_below = Path(*path.parts[:depth]).match(self.pattern)
        return is_below and (not self.words or any(word in test for word in self.words))


@dataclass(frozen=True)
class Stage:
    """Tests that run together.

    Attributes:
      name: for people to read.
      tests: the most telling first.
      with_heavy: whether those that are marked as heavy run as well.
    """

    name: str
    tests: tuple[Tests, ...]
    with_heavy: bool = False

    def paths(self, root: Path) -> list[str]:
        """What of it there is in a checkout, relative to it."""
        found = (path for tests in self.tests for path in sorted(root.glob(tests.pattern)))
        return list(dict.fromkeys(path.relative_to(root).as_posix() for path in found))

    def selects(self, test: str, is_heavy: bool = False) -> bool:
        """Whether the test with this id belongs to the stage."""
        return (self.with_heavy or not is_heavy) and self.rank(test) < len(self.tests)

    def rank(self, test: str) -> int:
        """The place of the test with this id among the ``tests``, from 0."""
        holds = (i for i, tests in enumerate(self.tests) if tests.hold(test))
        return next(holds, len(self.tests))


# By file of the package: the entries of `tests/table` that exercise it, and its own test files.
_LAYERS = "tests/bijectors/test_log_det.py"
_CONTRACT = "tests/bijectors/test_contract.py"
_FRAMEWORKS = "tests/bijectors/test_frameworks.py"
_SIDES = "tests/bijectors/test_sides.py"
_STRUCTURE = "tests/bijectors/test_structure.py"
_AUTOREGRESSIVE = "tests/bijectors/test_autoregressive.py"
_CONDITIONALS = "tests/conditionals/test_given_*.py"
_SUPPORTS = "tests/flow/test_flow_supports.py"
_MULTISCALE = "tests/images/test_multiscale.py"
_CONTEXTS = "tests/flow/test_flow_context.py"
_DATA_INIT = "tests/bijectors/test_data_init.py"
_MEMORY = "tests/bijectors/test_repeat_memory.py"
_CLOSEST: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "_constraints": ((), (_SUPPORTS, _STRUCTURE)),
    "bijectors/_checked": (("chain",), (_CONTRACT, "tests/bijectors/test_authors.py")),
    "_events": (("householder", "lu_linear", "permute", "chain"), (_MULTISCALE,)),
    "bijectors/_protocols": (
        ("affine_scalar", "conditional:affine_coupling", "chain"),
        (
            *(_CONTRACT, _FRAMEWORKS, _SIDES),
            *("tests/bijectors/test_authors.py", "tests/bijectors/test_misuse.py"),
        ),
    ),
    "bijectors/actnorm": (("act_norm",), (_MULTISCALE, _DATA_INIT)),
    "bijectors/autoregressive/implicit": (("autoregressive",), (_AUTOREGRESSIVE,)),
    "bijectors/autoregressive/layer": (("autoregressive",), (_AUTOREGRESSIVE, _STRUCTURE)),
    "bijectors/autoregressive/sweep": (("autoregressive",), (_AUTOREGRESSIVE,)),
    "bijectors/base": (
        ("affine_scalar", "conditional:affine_coupling", "chain"),
        (_CONTRACT, _STRUCTURE, _SUPPORTS, "tests/bijectors/test_authors.py"),
    ),
    "bijectors/compose/chain": (
        ("chain",),
        (_DATA_INIT, _SIDES, _FRAMEWORKS, _STRUCTURE, _SUPPORTS, _CONTRACT),
    ),
    "bijectors/compose/concatenated": (("concatenated",), (_CONDITIONALS,)),
    "bijectors/compose/conditioned": (
        ("conditional:affine_coupling",),
        (_CONTEXTS, _STRUCTURE),
    ),
    "bijectors/compose/embedded": (
        ("embedded",),
        ("tests/recipes/test_recipe_*.py", _STRUCTURE),
    ),
    "bijectors/compose/foreign": (("foreign", "support"), (_SIDES, _SUPPORTS)),
    "bijectors/compose/inverse": (("inverse",), (_DATA_INIT, _STRUCTURE, _SUPPORTS)),
    "bijectors/compose/repeat": (("repeat",), (_MEMORY, _SUPPORTS)),
    "bijectors/compose/reversible": (("repeat",), (_MEMORY,)),
    "bijectors/compose/wrapper": (("repeat", "wrapper", "embedded"), (_STRUCTURE,)),
    "bijectors/context_elementwise": (("context_elementwise",), (_STRUCTURE,)),
    "bijectors/coupling": (
        ("affine_coupling_", "spline_coupling_affine", "conditional:affine_coupling"),
        (_STRUCTURE, "tests/images/test_conv_coupling.py"),
    ),
    "bijectors/elementwise": (("affine_scalar", "elementwise", "spline_scalar"), (_STRUCTURE,)),
    "bijectors/linear": (("lu_linear", "conv_1x1", "householder"), ()),
    "bijectors/partition": (
        ("coupling_checkerboard", "coupling_channel", "given_mask", "flipped"),
        ("tests/bijectors/test_partition.py",),
    ),
    "bijectors/permute": (("permute", "reverse"), ()),
    "bijectors/support": (("support",), (_SUPPORTS,)),
    "bijectors/support_image": ((), (_SUPPORTS,)),
    "conditional_flow": ((), (_CONTEXTS, "tests/flow/test_*.py")),
    "conditionals/dependence": ((), (_CONDITIONALS,)),
    "conditionals/given": ((), (_CONDITIONALS,)),
    "conditionals/remainder": (("remainder",), (_CONDITIONALS,)),
    "diagnostics/_scoring": ((), ("tests/diagnostics/test_importance_*.py",)),
    "diagnostics/importance": ((), ("tests/diagnostics/test_importance_*.py",)),
    "flow": ((), ("tests/flow/test_*.py", "tests/bases/test_bases.py")),
    "images/layers/conv1x1": (("conv_1x1",), ("tests/images/test_glow.py",)),
    "images/layers/coupling": (
        ("conv_coupling", "split_prior"),
        ("tests/images/test_conv_coupling.py",),
    ),
    "images/layers/multiscale": (("real_nvp_image", "glow"), (_MULTISCALE,)),
    "images/layers/partition": (("conv_coupling", "split_prior"), (_MULTISCALE,)),
    "images/layers/pixel_logit": (("pixel_logit",), ("tests/images/test_pixels.py",)),
    "images/layers/squeeze": (("squeeze",), (_MULTISCALE,)),
    "images/layers/top_prior": (("top_prior",), ("tests/images/test_latents.py",)),
    "networks/made": (("autoregressive",), ("tests/networks/test_made.py",)),
    "transformers/base": ((), ("tests/transformers/test_*.py", _STRUCTURE)),
    "transformers/compose": (("composed",), ("tests/transformers/test_compose.py",)),
    "transformers/shift_scale": ((), ("tests/transformers/test_shift_scale.py",)),
    "transformers/spline": ((), ("tests/transformers/test_spline*.py",)),
}

_FLOWS = Stage(
    "flows",
    tuple(
        Tests(pattern)
        for pattern in (
            _LAYERS,
            _CONTRACT,
            "flowdists",
            "tests/bijectors",
            "tests/transformers",
            "tests/networks",
            "tests/flow",
            "tests/bases",
            "tests/conditionals",
            "tests/recipes",
        )
    ),
)
_IMAGES = Stage("images", (Tests("tests/images"), Tests("tests/io"), Tests("tests/test_*.py")))
_INFERENCE = Stage(
    "inference", (Tests("tests/diagnostics"), Tests("tests/guides"), Tests("tests/sbi"))
)
_EVERYTHING = Stage("everything", (Tests("flowdists"), Tests("tests")), with_heavy=True)


def files(root: Path) -> list[str]:
    """The files of a checkout that are changed, sorted."""
    found = (path for pattern in FILES for path in root.glob(pattern))
    return sorted(path.relative_to(root).as_posix() for path in found)


def stages(file: str) -> list[Stage]:
    """The stages of tests for mutants of a file, the cheapest and most telling first."""
    wider = [_INFERENCE, _FLOWS] if file.startswith("flowdists/diagnostics/") else [_FLOWS]
    closest = Stage(f"closest to {file}", (Tests(file), *_closest(file)))
    return [closest, *dict.fromkeys([*wider, _IMAGES, _INFERENCE, _EVERYTHING])]


def _closest(file: str) -> Iterator[Tests]:
    name = file.removeprefix("flowdists/").removesuffix(".py")
    words, patterns = _CLOSEST.get(name, ((Path(file).stem,), ()))
    if words:
        yield Tests(_LAYERS, words)
    yield from map(Tests, patterns)


def all_stages(changed: Iterable[str], number: int | None = None) -> list[Stage]:
    """The stages that mutants of these files go through, or the first ``number`` of each file."""
    by_depth = list(zip(*map(stages, sorted(set(changed))), strict=True))[:number]
    return list(dict.fromkeys(stage for stages_of_depth in by_depth for stage in stages_of_depth))
