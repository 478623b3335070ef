"""Saving and loading flows: parameters by name in a safetensors file, the structure as JSON.

A file holds no code and no pickle. :func:`load` builds the structure of a flow by calling the
recipe that the file names, and fills in the parameters; a flow composed by hand is loaded into a
template of the same structure.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow, Recipe
from flowdists.io.container import pack, unpack, write_atomically
from flowdists.io.names import fill, named_parameters, renamed
from flowdists.io.specs import (
    AnyFlow,
    base_from_json,
    base_to_json,
    build_structure,
    recipe_from_json,
    recipe_to_json,
)


def save(path: str | os.PathLike[str], flow: AnyFlow) -> None:
    """Write ``flow`` to one file, replacing what was there in one step.

    The file is in the safetensors format. It holds every parameter under its name, such as
    ``bijector.layers[0].layers.conditioner.output.weight``, in its own precision. The metadata
    describe the flow as JSON.

    :func:`load` needs no template for a flow from a recipe, with options that are numbers, strings,
    tuples and functions of :mod:`jax.nn`, whose base is one of ours or a NumPyro distribution that
    consists of parameters (also wrapped in ``expand`` or ``to_event``). For any other flow only the
    bijector's parameters are saved; give ``like=`` to :func:`load`. The parameters of any other
    base are not saved: the base of ``like`` must then have the same.

    Args:
      path: the file to write. The name is used as it is, and the folder must exist.
      flow: a :class:`~flowdists.Flow` or :class:`~flowdists.ConditionalFlow`.

    Raises:
      TypeError: if ``flow`` is not a flow, has a leaf that is not a floating-point array, or is
        traced (saving under ``jit``).
      FileNotFoundError: if the folder does not exist.

    >>> import os, tempfile
    >>> flow = MAF(jax.random.key(0), (2,), num_layers=2, hidden_sizes=(8,))
    >>> save(os.path.join(tempfile.mkdtemp(), "flow.safetensors"), flow)
    """
    data = to_bytes(flow)
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"save: `path` is in a folder that does not exist: {target.parent}")
    write_atomically(target, data)


def load(path: str | os.PathLike[str], *, like: AnyFlow | None = None) -> AnyFlow:
    """Read a flow that :func:`save` wrote; its densities are the same to the last bit.

    Nothing in the file is executed. Parameters keep the precision in which they were saved.

    Args:
      path: the file.
      like: a flow of the same structure, for flows that no recipe built. The parameters of its
        bijector are not used. Its base is used only if the file could not describe the base that
        was saved, and must then be equal to that one.

    Returns:
      The flow, of the kind that was saved.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is damaged, foreign, or newer than this release; if it needs ``like``,
        which was not given; if ``like`` does not fit (the message names the first parameter that
        differs); or if it holds float64 parameters while JAX's 64-bit mode is off.
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
    return from_bytes(source.read_bytes(), f"load: {source}", like)


def to_bytes(flow: AnyFlow) -> bytes:
    """The bytes of the file that :func:`save` writes for ``flow``."""
    from flowdists import __version__

    _check_flow("save", "flow", flow)
    parameters = named_parameters(flow.bijector)
    base, base_arrays = base_to_json(flow.base)
    metadata = {
        "flowdists_version": __version__,
        "kind": type(flow).__name__,
        "recipe": json.dumps(recipe_to_json(flow)),
        "base": json.dumps(base),
    }
    return pack({**parameters, **base_arrays}, metadata)


def from_bytes(data: bytes, origin: str, like: AnyFlow | None = None) -> AnyFlow:
    """The flow in the bytes of a file, which is called ``origin`` in error messages."""
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
        made_from = recipe_from_json(recipe, origin)
        structure = build_structure(made_from, origin)
        num_classes = dict(made_from.options).get("num_classes")
    else:
        made_from, structure = like.recipe, like.bijector
        num_classes = getattr(like, "num_classes", None)
    base_arrays = {k: arrays.pop(k) for k in list(arrays) if k.startswith("base.")}
    parameters = renamed(arrays, int(metadata["format_version"]))
    bijector = fill(structure, parameters, origin)
    distribution = base_from_json(base, base_arrays, like, origin)
    try:
        if kind == "Flow":
            return Flow(distribution, bijector, recipe=made_from)
        return ConditionalFlow(distribution, bijector, recipe=made_from, num_classes=num_classes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{origin} has a base that does not fit its bijector: {error}") from error


def _check_flow(caller: str, argument: str, flow: Any) -> None:
    if not isinstance(flow, Flow | ConditionalFlow):
        raise TypeError(
            f"{caller}: `{argument}` must be a Flow or ConditionalFlow, got {type(flow).__name__}"
        )
