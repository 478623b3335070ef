"""Saving and loading flows: parameters by name in a safetensors file, the structure as JSON.

A file holds no code and no pickle. :func:`load` builds the structure of a flow by calling the
recipe that the file names, and fills in the parameters; a flow composed by hand is loaded into a
template of the same structure.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from flowdists._base_spec import BaseSpec, build_base, describe_base
from flowdists.bijectors.base import Bijector
from flowdists.distribution import ConditionalFlow, Flow, Recipe
from flowdists.io.container import pack, unpack, write_atomically
from flowdists.io.names import named_leaves
from flowdists.recipes.registry import RECIPES

AnyFlow = Flow | ConditionalFlow

# Functions that may stand in a recipe's options, by the name that is written for them.
_ELEMENTWISE = ("abs", "arctan", "arcsinh", "cos", "exp", "sin", "sinh", "square", "tanh")
_FUNCTIONS = {
    **{f"jax.nn.{n}": f for n, f in vars(jax.nn).items() if callable(f) and n[0] != "_"},
    **{f"jax.numpy.{n}": getattr(jnp, n) for n in _ELEMENTWISE},
}


def save(path: str | os.PathLike[str], flow: AnyFlow) -> None:
    """Write ``flow`` to one file, replacing what was there in one step.

    The file is in the safetensors format: every parameter under its name, such as
    ``bijector.layers[0].layers.conditioner.output.weight``, and in the metadata what the flow is,
    as JSON. Precision is kept, down to bfloat16.

    What comes back without a template: a flow from a recipe, with options that are numbers,
    strings, tuples and functions of :mod:`jax.nn`, whose base is one of ours or a NumPyro
    distribution that is all parameters (wrapped in ``expand`` or ``to_event``, or not). Of any
    other flow the bijector's parameters are saved all the same; give ``like=`` to :func:`load`.
    The parameters of any other base are not: ``like`` must then have the same.

    Args:
      path: where to; the name is used as it is, and the folder must exist.
      flow: a :class:`~flowdists.Flow` or :class:`~flowdists.ConditionalFlow`.

    Raises:
      TypeError: if ``flow`` is not a flow, has a leaf that is not a floating-point array, or is
        traced (saving under ``jit``).
      FileNotFoundError: if the folder does not exist.

    >>> import os, tempfile
    >>> flow = MAF(jax.random.key(0), (2,), num_layers=2, hidden_sizes=(8,))
    >>> save(os.path.join(tempfile.mkdtemp(), "flow.safetensors"), flow)
    """
    data = encode(flow)
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"save: `path` is in a folder that does not exist: {target.parent}")
    write_atomically(target, data)


def load(path: str | os.PathLike[str], *, like: AnyFlow | None = None) -> AnyFlow:
    """Read a flow that :func:`save` wrote; its densities are the same to the last bit.

    Nothing in the file is executed. Parameters come back in the precision they were saved in.

    Args:
      path: the file.
      like: a flow of the same structure, for flows that no recipe built; its bijector's parameters
        do not matter. Its base is used only where the file could not describe the one it was saved
        with, and must then be equal to that.

    Returns:
      The flow, of the kind that was saved.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is damaged, foreign, or newer than this release; if it needs ``like``
        and there is none; if ``like`` does not fit it (the first parameter at fault is named); or
        if it holds float64 parameters while JAX's 64-bit mode is off.
      TypeError: if ``like`` is not a flow.

    >>> import tempfile, os
    >>> flow = RealNVP(jax.random.key(0), (2,), num_layers=2, hidden_sizes=(8,))
    >>> path = os.path.join(tempfile.mkdtemp(), "flow.safetensors")
    >>> save(path, flow)
    >>> load(path)
    Flow[RealNVP](event_shape=(2,), batch_shape=())
    """
    if like is not None:
        _check_flow("load", "like", like)
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"load: `path` does not exist: {source}")
    if not source.is_file():
        raise ValueError(f"load: `path` must be a file, got a folder: {source}")
    return decode(source.read_bytes(), f"load: {source}", like)


def encode(flow: AnyFlow) -> bytes:
    """The bytes of the file that :func:`save` writes for ``flow``."""
    from flowdists import __version__

    _check_flow("save", "flow", flow)
    arrays = {}
    for name, leaf in named_leaves(flow.bijector, "bijector").items():
        _check_parameter(name, leaf)
        arrays[name] = np.asarray(leaf)
    base, base_arrays = _encode_base(flow.base)
    metadata = {
        "flowdists_version": __version__,
        "kind": type(flow).__name__,
        "recipe": json.dumps(_encode_recipe(flow)),
        "base": json.dumps(base),
    }
    return pack({**arrays, **base_arrays}, metadata)


def decode(data: bytes, origin: str, like: AnyFlow | None = None) -> AnyFlow:
    """The flow in the bytes of a file; ``origin`` is what to call them in an error message."""
    arrays, metadata = unpack(data, origin)
    try:
        kind, recipe, base = (metadata[k] for k in ("kind", "recipe", "base"))
        recipe, base = json.loads(recipe), json.loads(base)
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{origin} is damaged: its metadata cannot be read") from error
    if kind not in ("Flow", "ConditionalFlow"):
        raise ValueError(f"{origin} is damaged: it holds a {kind!r}")
    if like is not None and type(like).__name__ != kind:
        raise ValueError(f"{origin} holds a {kind}, but `like` is a {type(like).__name__}")
    made_from: Recipe | None
    if like is None:
        made_from = _decode_recipe(recipe, origin)
        structure = _build(made_from, origin)
    else:
        made_from, structure = like.recipe, like.bijector
    base_arrays = {k: arrays.pop(k) for k in list(arrays) if k.startswith("base.")}
    bijector = _fill(structure, arrays, origin)
    distribution = _decode_base(base, base_arrays, like, origin)
    try:
        if kind == "Flow":
            return Flow(distribution, bijector, recipe=made_from)
        return ConditionalFlow(
            distribution, bijector, recipe=made_from, num_classes=_num_classes(made_from, like)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{origin} has a base that does not fit its bijector: {error}") from error


# Parameters.


def _check_flow(caller: str, argument: str, flow: Any) -> None:
    if not isinstance(flow, Flow | ConditionalFlow):
        raise TypeError(
            f"{caller}: `{argument}` must be a Flow or ConditionalFlow, got {type(flow).__name__}"
        )


def _check_parameter(name: str, leaf: Any) -> None:
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(f"save: `{name}` is traced; a flow cannot be saved under jit, grad or vmap")
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
        given = getattr(leaf, "dtype", type(leaf).__name__)
        raise TypeError(f"save: `{name}` must be a floating-point array, got {given}")


def _fill(structure: Bijector, arrays: dict[str, np.ndarray], origin: str) -> Bijector:
    """The bijector of ``structure`` with the parameters in ``arrays``."""
    slots = named_leaves(structure, "bijector")
    for name, slot in slots.items():
        if name not in arrays:
            raise ValueError(f"{origin} has no parameter `{name}`, which the flow's structure has")
        if arrays[name].shape != slot.shape:
            raise ValueError(
                f"{origin} has `{name}` of shape {arrays[name].shape}, but the flow's structure "
                f"takes shape {slot.shape}"
            )
        if not jnp.issubdtype(arrays[name].dtype, jnp.floating):
            raise ValueError(f"{origin} has `{name}` of dtype {arrays[name].dtype}, not floating")
        if not _is_supported(arrays[name].dtype):
            raise ValueError(
                f"{origin} has float64 parameters (`{name}`), and JAX's 64-bit mode is off: turn "
                'it on with `jax.config.update("jax_enable_x64", True)`'
            )
    unexpected = next((name for name in arrays if name not in slots), None)
    if unexpected is not None:
        raise ValueError(
            f"{origin} has a parameter `{unexpected}`, which the flow's structure does not have"
        )
    return jax.tree.unflatten(
        jax.tree.structure(structure), [jnp.asarray(arrays[name]) for name in slots]
    )


def _num_classes(recipe: Recipe | None, like: AnyFlow | None) -> int | None:
    if like is not None:
        return like.num_classes
    return None if recipe is None else dict(recipe.options).get("num_classes")


def _is_supported(dtype: np.dtype[Any]) -> bool:
    return jax.dtypes.canonicalize_dtype(dtype) == dtype


# Recipes.


def _encode_recipe(flow: AnyFlow) -> dict[str, Any]:
    """The recipe as JSON, or why the flow cannot be built from one."""
    recipe = flow.recipe
    if recipe is None:
        return {"missing": "the flow was composed by hand"}
    try:
        options = {name: _encode_option(value) for name, value in recipe.options}
    except TypeError as error:
        return {"missing": f"the option {error}"}
    if recipe.name not in RECIPES:
        return {"missing": f"the recipe {recipe.name!r} is not registered"}
    built: Any = jax.tree.structure(_structure(recipe))
    if built != jax.tree.structure(flow.bijector):
        return {"missing": f"the bijector is not the one that {recipe.name} builds"}
    return {"name": recipe.name, "event_shape": recipe.event_shape, "options": options}


def _decode_recipe(entry: Any, origin: str) -> Recipe:
    if isinstance(entry, dict) and "missing" in entry:
        _needs_like(origin, entry["missing"])
    try:
        options = ((str(k), _decode_option(v)) for k, v in entry["options"].items())
        made_from = Recipe(str(entry["name"]), tuple(entry["event_shape"]), tuple(options))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{origin} is damaged: its recipe cannot be read") from error
    if made_from.name not in RECIPES:
        raise ValueError(
            f"{origin} was built by the recipe {made_from.name!r}, and there is none of that name: "
            "import the module that defines it, or give a flow of the same structure as `like`"
        )
    return made_from


def _build(recipe: Recipe, origin: str) -> Bijector:
    try:
        return _structure(recipe)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{origin} was built by {recipe.name} with options that it does not take: {error}"
        ) from error


@functools.lru_cache(maxsize=64)
def _structure(recipe: Recipe) -> Bijector:
    """What ``recipe`` builds, with shapes in place of parameters."""

    def build(key: jax.Array) -> Bijector:
        return RECIPES[recipe.name](key, recipe.event_shape, **dict(recipe.options)).bijector

    return jax.eval_shape(build, jax.random.key(0))


def _encode_option(value: Any) -> Any:
    """``value`` in JSON; a TypeError says what cannot be."""
    if isinstance(value, tuple):
        return [_encode_option(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    name = next((n for n, function in _FUNCTIONS.items() if function is value), None)
    if name is None:
        raise TypeError(f"{getattr(value, '__name__', value)!r} cannot be written to a file")
    return {"function": name}


def _decode_option(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode_option(item) for item in value)
    if isinstance(value, dict):
        return _FUNCTIONS[value["function"]]
    return value


def _needs_like(origin: str, reason: str) -> NoReturn:
    raise ValueError(
        f"{origin} does not say how to build the flow ({reason}): give a flow of the same "
        "structure, as in `load(path, like=flow)`"
    )


# Bases.


def _encode_base(base: dist.Distribution) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The base as JSON and arrays, or why it cannot be written."""
    try:
        spec, arguments = describe_base(base)
    except TypeError as error:
        return {"missing": f"the base: {error}", "digest": _digest(base)}, {}
    numbers = {k: v for k, v in arguments.items() if isinstance(v, bool | int | float)}
    arrays = {f"base.{k}": np.asarray(v) for k, v in arguments.items() if k not in numbers}
    return {**spec._asdict(), "numbers": numbers}, arrays


def _digest(base: dist.Distribution) -> str:
    """A base's numbers, whatever order its leaves come in: that depends on the hash seed."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(base)]
    parts = sorted(repr((a.dtype.str, a.shape)).encode() + a.tobytes() for a in leaves)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _decode_base(
    entry: Any, arrays: dict[str, np.ndarray], like: AnyFlow | None, origin: str
) -> dist.Distribution:
    if isinstance(entry, dict) and "missing" in entry:
        if like is None:
            _needs_like(origin, entry["missing"])
        if _digest(like.base) != entry.get("digest"):
            raise ValueError(
                f"{origin} could not hold the base it was saved with, and the base of `like` has "
                "other parameters than that"
            )
        return like.base
    try:
        wrappers = tuple((kind, value) for kind, value in entry["wrappers"])
        spec = BaseSpec(entry["name"], entry["options"], wrappers)
        # float64 arrays of NumPy's stay what they are where JAX would round them.
        arguments = {
            name.removeprefix("base."): jnp.asarray(a) if _is_supported(a.dtype) else a
            for name, a in arrays.items()
        }
        return build_base(spec, {**entry["numbers"], **arguments})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{origin} has a base that cannot be built: {error}") from error
