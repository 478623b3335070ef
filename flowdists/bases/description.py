"""Base distributions taken apart: a class, its arguments by name, and the wrappers around it.

Files and training use these instead of the pytree's leaves. The order of NumPyro's leaves is that
of a set, which varies, and some leaves are constrained. The arguments of a constructor have names
and constraints.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpyro.distributions as dist

from flowdists.bases.standard import StandardLogistic, StandardNormal, StandardUniform

Wrappers = tuple[tuple[str, Any], ...]

STANDARD = {cls.__name__: cls for cls in (StandardLogistic, StandardNormal, StandardUniform)}


class BaseSpec(NamedTuple):
    """Everything about a base except its arguments, in a form that JSON can hold.

    Attributes:
      name: a class in :mod:`numpyro.distributions`, or one of the standard bases here.
      options: arguments that are configuration.
      wrappers: ``("expand", batch_shape)`` and ``("independent", ndims)``, innermost first.
    """

    name: str
    options: dict[str, Any]
    wrappers: Wrappers


def describe_base(base: dist.Distribution) -> tuple[BaseSpec, dict[str, Any]]:
    """Take ``base`` apart into its spec and its arguments, which are numbers or arrays.

    Raises:
      TypeError: if the class is not public in NumPyro, or its arguments do not define it fully.
    """
    bare, wrappers = unwrap(base)
    if type(bare) in STANDARD.values():
        options, arguments = bare.options(), {}
    else:
        options, arguments = {}, _arguments(bare)
    return BaseSpec(type(bare).__name__, options, wrappers), arguments


def build_base(spec: BaseSpec, arguments: dict[str, Any]) -> dist.Distribution:
    """The distribution that ``spec`` and ``arguments`` describe.

    Raises:
      ValueError: if there is no such distribution, or no such wrapper.
    """
    cls: Any = STANDARD.get(spec.name) or getattr(dist, spec.name, None)
    if not (isinstance(cls, type) and issubclass(cls, dist.Distribution)):
        raise ValueError(f"numpyro.distributions has no distribution {spec.name!r}")
    return wrap(cls(**spec.options, **arguments), spec.wrappers)


def bare_base(base: dist.Distribution) -> dist.Distribution:
    """``base`` without its wrappers."""
    return unwrap(base)[0]


def unwrap(base: dist.Distribution) -> tuple[dist.Distribution, Wrappers]:
    """``base`` without its wrappers, and the wrappers, innermost first."""
    wrappers: Wrappers = ()
    while type(base) in (dist.ExpandedDistribution, dist.Independent):
        if type(base) is dist.ExpandedDistribution:
            wrappers = (("expand", tuple(base.batch_shape)), *wrappers)
        else:
            wrappers = (("independent", base.reinterpreted_batch_ndims), *wrappers)
        base = base.base_dist
    return base, wrappers


def wrap(base: dist.Distribution, wrappers: Wrappers) -> dist.Distribution:
    """``base`` in the given wrappers.

    Raises:
      ValueError: if there is no such wrapper.
    """
    for kind, value in wrappers:
        if kind == "expand":
            base = dist.ExpandedDistribution(base, tuple(value))
        elif kind == "independent":
            base = dist.Independent(base, value)
        else:
            raise ValueError(f"a base has no wrapper {kind!r}")
    return base


def _arguments(base: dist.Distribution) -> dict[str, Any]:
    cls = type(base)
    if getattr(dist, cls.__name__, None) is not cls:
        raise TypeError(f"{cls.__name__} is not a class of numpyro.distributions")
    fields = {*cls.gather_pytree_data_fields(), *cls.gather_pytree_aux_fields()}
    # NumPyro derives the fields with a leading underscore from the arguments.
    others = {f for f in fields if not f.startswith("_")} - set(base.arg_constraints)
    if not base.arg_constraints or others:
        raise TypeError(f"a {cls.__name__} holds more than numbers and arrays of parameters")
    arguments = base.get_args()
    if "scale_tril" in arguments:  # a multivariate normal also keeps equivalent matrices
        arguments = {k: v for k, v in arguments.items() if not k.endswith("_matrix")}
    return arguments
