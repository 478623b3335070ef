"""The description of a flow as JSON: its recipe with the options, and its base."""

from __future__ import annotations

import functools
import hashlib
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from flowdists.bases import BaseSpec, build_base, describe_base
from flowdists.bijectors.base import Bijector
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow, Recipe
from flowdists.io.names import is_supported
from flowdists.recipes import RECIPES

AnyFlow = Flow | ConditionalFlow

# Functions that a recipe's options may contain, by the name under which they are saved.
_ELEMENTWISE = ("abs", "arctan", "arcsinh", "cos", "exp", "sin", "sinh", "square", "tanh")
_FUNCTIONS = {
    **{f"jax.nn.{n}": f for n, f in vars(jax.nn).items() if callable(f) and n[0] != "_"},
    **{f"jax.numpy.{n}": getattr(jnp, n) for n in _ELEMENTWISE},
}


def recipe_to_json(flow: AnyFlow) -> dict[str, Any]:
    """The recipe as JSON, or the reason why the flow cannot be built from one."""
    recipe = flow.recipe
    if recipe is None:
        return {"missing": "the flow was composed by hand"}
    try:
        options = {name: _option_to_json(value) for name, value in recipe.options}
    except TypeError as error:
        return {"missing": f"the option {error}"}
    if recipe.name not in RECIPES:
        return {"missing": f"the recipe {recipe.name!r} is not registered"}
    built: Any = jax.tree.structure(_structure(recipe))
    if built != jax.tree.structure(flow.bijector):
        return {"missing": f"the bijector is not the one that {recipe.name} builds"}
    return {"name": recipe.name, "event_shape": recipe.event_shape, "options": options}


def recipe_from_json(entry: Any, origin: str) -> Recipe:
    """The recipe that :func:`recipe_to_json` wrote.

    Raises:
      ValueError: if there is no recipe, it cannot be read, or it is not registered here.
    """
    if isinstance(entry, dict) and "missing" in entry:
        _needs_like(origin, entry["missing"])
    try:
        options = ((str(k), _option_from_json(v)) for k, v in entry["options"].items())
        made_from = Recipe(str(entry["name"]), tuple(entry["event_shape"]), tuple(options))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{origin} is damaged: its recipe cannot be read") from error
    if made_from.name not in RECIPES:
        raise ValueError(
            f"{origin} was built by the recipe {made_from.name!r}, which is not registered: import "
            "the module that defines it, or give a flow of the same structure as `like`"
        )
    return made_from


def build_structure(recipe: Recipe, origin: str) -> Bijector:
    """The bijector that ``recipe`` builds, with shapes in place of parameters.

    Raises:
      ValueError: if the recipe does not take the options.
    """
    try:
        return _structure(recipe)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{origin} was built by {recipe.name} with options that it does not take: {error}"
        ) from error


@functools.lru_cache(maxsize=64)
def _structure(recipe: Recipe) -> Bijector:
    """The bijector of ``recipe``, with shapes in place of parameters."""

    def build(key: jax.Array) -> Bijector:
        return RECIPES[recipe.name](key, recipe.event_shape, **dict(recipe.options)).bijector

    return jax.eval_shape(build, jax.random.key(0))


def _option_to_json(value: Any) -> Any:
    """``value`` as JSON. Raises a TypeError that names what cannot be saved."""
    if isinstance(value, tuple):
        return [_option_to_json(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    name = next((n for n, function in _FUNCTIONS.items() if function is value), None)
    if name is None:
        raise TypeError(f"{getattr(value, '__name__', value)!r} cannot be written to a file")
    return {"function": name}


def _option_from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_option_from_json(item) for item in value)
    if isinstance(value, dict):
        return _FUNCTIONS[value["function"]]
    return value


def _needs_like(origin: str, reason: str) -> NoReturn:
    raise ValueError(
        f"{origin} does not say how to build the flow ({reason}): give a flow of the same "
        "structure, as in `load(path, like=flow)`"
    )


def base_to_json(base: dist.Distribution) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The base as JSON and arrays, or the reason why it cannot be saved."""
    try:
        spec, arguments = describe_base(base)
    except TypeError as error:
        return {"missing": f"the base: {error}", "digest": _digest(base)}, {}
    numbers = {k: v for k, v in arguments.items() if isinstance(v, bool | int | float)}
    arrays = {f"base.{k}": np.asarray(v) for k, v in arguments.items() if k not in numbers}
    return {**spec._asdict(), "numbers": numbers}, arrays


def _digest(base: dist.Distribution) -> str:
    """A hash of a base's numbers in any order, because that of its leaves varies between runs."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(base)]
    parts = sorted(repr((a.dtype.str, a.shape)).encode() + a.tobytes() for a in leaves)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def base_from_json(
    entry: Any, arrays: dict[str, np.ndarray], like: AnyFlow | None, origin: str
) -> dist.Distribution:
    """The base that :func:`base_to_json` wrote, or else that of ``like``.

    Raises:
      ValueError: if it cannot be built, or ``like`` is needed and has another base.
    """
    if isinstance(entry, dict) and "missing" in entry:
        if like is None:
            _needs_like(origin, entry["missing"])
        if _digest(like.base) != entry.get("digest"):
            raise ValueError(
                f"{origin} could not describe the base that was saved, and the base of `like` has "
                "other parameters"
            )
        return like.base
    try:
        wrappers = tuple((kind, value) for kind, value in entry["wrappers"])
        spec = BaseSpec(entry["name"], entry["options"], wrappers)
        # NumPy arrays in float64 stay as they are where JAX would round them.
        arguments = {
            name.removeprefix("base."): jnp.asarray(a) if is_supported(a.dtype) else a
            for name, a in arrays.items()
        }
        return build_base(spec, {**entry["numbers"], **arguments})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{origin} has a base that cannot be built: {error}") from error
