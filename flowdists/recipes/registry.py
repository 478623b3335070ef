"""Recipes by name, and the decorator that turns a function that builds layers into a recipe."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, ParamSpec

from flowdists import _check
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow, Recipe
from flowdists.recipes.assemble import assemble
from flowdists.recipes.configuration import canonical_support, describe

RECIPES: dict[str, Callable[..., Flow | ConditionalFlow]] = {}
"""Recipes by name. :func:`~flowdists.load` builds a saved flow's structure by calling one."""

Options = ParamSpec("Options")

_SHARED = {
    name: parameter
    for name, parameter in inspect.signature(assemble, eval_str=True).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}
"""The options of :func:`assemble`, which every recipe has."""


def recipe(
    build: Callable[Options, Bijector], *, without: Collection[str] = ()
) -> Callable[Options, Any]:
    """Turn ``build(key, event_shape, *, ..., **network) -> Bijector`` into a recipe.

    ``build`` makes layers. The recipe checks key and shapes, and adds what any layers can have
    around them: a base, a support and the embedding of a context. These options, and those of
    networks, replace ``**network`` in the signature and in the docstring. The recipe is registered
    under the name of ``build``. :func:`~flowdists.load` finds it once its module is imported.

    Type checkers see the result as ``Any``, because an option decides which kind of flow it is.

    Args:
      build: the function. ``event_shape`` is that of the layers, before the last layer maps onto a
        support. ``network`` holds ``hidden_sizes``, ``residual``, ``activation`` and the
        ``context_shape`` after the embedding, or None. An option that ``build`` itself declares
        keeps its own default and text.
      without: names of shared options that do not suit the layers, such as "support".

    >>> @recipe
    ... def Couplings(key, event_shape, *, num_layers=2, **network):
    ...     '''Affine couplings that all keep the same elements.'''
    ...     keys = jax.random.split(key, num_layers)
    ...     return Chain([AffineCoupling(key, event_shape, **network) for key in keys])
    >>> Couplings(jax.random.key(0), (3,), residual=True, base=StandardLogistic((3,)))
    Flow[Couplings](event_shape=(3,), batch_shape=())
    """
    name = build.__name__
    make: Callable[..., Bijector] = build
    own = inspect.signature(build).parameters
    added = {n: p for n, p in _SHARED.items() if n not in own and n not in without}
    declared = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
    signature = inspect.Signature(
        [*declared, *added.values()], return_annotation=Flow | ConditionalFlow
    )

    def wrapper(*args: Options.args, **kwargs: Options.kwargs) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            known = ", ".join(signature.parameters)
            raise TypeError(f"{name}: {error}; the arguments are {known}") from None
        given = {n: v for n, v in bound.arguments.items() if n not in _NOT_RECORDED}
        bound.apply_defaults()
        options = bound.arguments
        key = _check.key(name, options.pop("key"))
        shape = _check.shape(name, "event_shape", options.pop("event_shape"))
        if "support" in options:  # as in a flow that was loaded
            options["support"] = canonical_support(options["support"])
        shared = {n: options.pop(n) for n in _SHARED if n in options}

        def make_layers(key: Array, event_shape: Shape, network: dict[str, Any]) -> Bijector:
            wanted = {n: v for n, v in network.items() if n in signature.parameters}
            return make(key, event_shape, **options, **wanted)

        return assemble(Recipe(name, shape, describe(given)), key, make_layers, **shared)

    functools.update_wrapper(wrapper, build)
    wrapper.__doc__ = _documented(inspect.getdoc(build), added)
    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__annotations__ = {n: p.annotation for n, p in signature.parameters.items()}
    wrapper.__annotations__["return"] = signature.return_annotation
    RECIPES[name] = wrapper
    return wrapper


_NOT_RECORDED = ("key", "event_shape", "base")
_ENTRY = re.compile(r"^  ([\w*]+): .+\n(?:    .+\n)*", re.MULTILINE)


def _documented(own: str | None, added: Iterable[str]) -> str | None:
    """The docstring ``own`` with the options ``added``, as :func:`assemble` documents them."""
    shared = inspect.getdoc(assemble)
    if own is None or shared is None:  # `python -OO` drops docstrings
        return own
    entries = {found[1]: found[0] for found in _ENTRY.finditer(shared)}
    text, _, arguments_and_rest = own.partition("\n\nArgs:\n")
    arguments, _, rest = arguments_and_rest.partition("\n\n")
    declared = [m[0] for m in _ENTRY.finditer(f"{arguments}\n") if m[1] != "**network"]
    arguments = "".join([*declared, *(entries[name] for name in added)])
    result = shared[shared.index("Returns:") :]
    return "\n\n".join(filter(None, [text, f"Args:\n{arguments.rstrip()}", result, rest]))
