"""Base distributions in parts: a class, its arguments by name, and the wrappers around it.

NumPyro's leaf order is no basis for a file, nor its leaves for training: they follow a set's order,
and some of them are constrained. The constructor's arguments are named and have constraints.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpyro.distributions as dist

from flowdists.bases.standard import StandardLogistic, StandardNormal, StandardUniform


class BaseSpec(NamedTuple):
    """All of a base but its arguments; JSON can hold it.

    Attributes:
      name: the class in :mod:`numpyro.distributions`, or a base of ours.
      options: arguments that are configuration.
      wrappers: ``("expand", batch_shape)`` and ``("independent", ndims)``, innermost first.
    """

    name: str
    options: dict[str, Any]
    wrappers: tuple[tuple[str, Any], ...]


def describe_base(base: dist.Distribution) -> tuple[BaseSpec, dict[str, Any]]:
    """Take ``base`` apart into its spec and its arguments, numbers or arrays.

    Raises:
      TypeError: if the class is not public in NumPyro, or its arguments do not say all of it.
    """
    wrappers: list[tuple[str, Any]] = []
    while type(base) in (dist.ExpandedDistribution, dist.Independent):
        if type(base) is dist.ExpandedDistribution:
            wrappers.append(("expand", tuple(base.batch_shape)))
        else:
            wrappers.append(("independent", base.reinterpreted_batch_ndims))
        base = base.base_dist
    options, arguments = _arguments(base)
    return BaseSpec(type(base).__name__, options, tuple(reversed(wrappers))), arguments


def build_base(spec: BaseSpec, arguments: dict[str, Any]) -> dist.Distribution:
    """The distribution that ``spec`` and ``arguments`` describe.

    Raises:
      ValueError: if there is no such distribution, or it has no such wrapper.
    """
    ours = {cls.__name__: cls for cls in (StandardLogistic, StandardNormal, StandardUniform)}
    cls = ours.get(spec.name) or getattr(dist, spec.name, None)
    if not (isinstance(cls, type) and issubclass(cls, dist.Distribution)):
        raise ValueError(f"numpyro.distributions has no distribution {spec.name!r}")
    base = cls(**spec.options, **arguments)
    for kind, value in spec.wrappers:
        if kind == "expand":
            base = dist.ExpandedDistribution(base, tuple(value))
        elif kind == "independent":
            base = dist.Independent(base, value)
        else:
            raise ValueError(f"a base has no wrapper {kind!r}")
    return base


def bare_base(base: dist.Distribution) -> dist.Distribution:
    """``base`` without its wrappers."""
    while type(base) in (dist.ExpandedDistribution, dist.Independent):
        base = base.base_dist
    return base


def _arguments(base: dist.Distribution) -> tuple[dict[str, Any], dict[str, Any]]:
    cls = type(base)
    if cls in (StandardLogistic, StandardNormal, StandardUniform):
        options = {"event_shape": base.event_shape, "batch_shape": base.batch_shape}
        if cls is StandardUniform:
            options |= {"low": base.low, "high": base.high}
        return options, {}
    if getattr(dist, cls.__name__, None) is not cls:
        raise TypeError(f"{cls.__name__} is not a class of numpyro.distributions")
    fields = {*cls.gather_pytree_data_fields(), *cls.gather_pytree_aux_fields()}
    # Fields with a leading underscore are NumPyro's own, made again from the arguments.
    others = {f for f in fields if not f.startswith("_")} - set(base.arg_constraints)
    if not base.arg_constraints or others:
        raise TypeError(f"a {cls.__name__} holds more than numbers and arrays of parameters")
    arguments = base.get_args()
    if "scale_tril" in arguments:  # a multivariate normal keeps equivalent matrices beside it
        arguments = {k: v for k, v in arguments.items() if not k.endswith("_matrix")}
    return {}, arguments
