"""What a fit trains: the bijector's leaves, and a base's arguments in unconstrained space."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import biject_to

from flowdists._base_spec import bare_base, build_base, describe_base
from flowdists.bijectors.base import Bijector
from flowdists.distribution import ConditionalFlow, Flow
from flowdists.io.names import named_leaves

Array = jax.Array


class Parameters(NamedTuple):
    """The trained part of a flow, a pytree of float arrays.

    Attributes:
      bijector: the bijector.
      base: the base's arguments by name, taken to unconstrained space; empty unless trained.
    """

    bijector: Bijector
    base: dict[str, Array]


def take_parameters(flow: Flow | ConditionalFlow, train_base: bool) -> Parameters:
    """Copy what is to be trained out of ``flow``.

    Raises:
      TypeError: if a leaf of the bijector is not a floating-point array, or the base is one whose
        arguments cannot be trained.
      ValueError: if there is nothing to train.
    """
    for name, leaf in named_leaves(flow.bijector, "flow.bijector").items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"fit: `{name}` must be a floating-point array, got {jnp.result_type(leaf)}: the "
                "leaves of a bijector are its parameters, declare anything else `static()`"
            )
    base = _unconstrained(flow.base) if train_base else {}
    # A copy, because the training loop takes over the memory of what it is given; of a definite
    # type, because a weak one would change after the first step and be compiled for again.
    parameters = jax.tree.map(
        lambda leaf: jnp.array(leaf, jnp.result_type(leaf)), Parameters(flow.bijector, base)
    )
    if not jax.tree.leaves(parameters):
        raise ValueError("fit: `flow` has no parameters to train")
    return parameters


def put_parameters(flow: Flow | ConditionalFlow, parameters: Parameters) -> Flow | ConditionalFlow:
    """``flow`` with ``parameters`` in place of its own."""
    if not parameters.base:
        return flow.replace(bijector=parameters.bijector)
    spec, arguments = describe_base(flow.base)
    constraints = bare_base(flow.base).arg_constraints
    trained = {k: biject_to(constraints[k])(v) for k, v in parameters.base.items()}
    base = build_base(spec, {**arguments, **trained})
    return flow.replace(base=base, bijector=parameters.bijector)


def _unconstrained(base: dist.Distribution) -> dict[str, Array]:
    advice = "leave `train_base` off, or put a trainable layer such as Affine in its place"
    try:
        _, arguments = describe_base(base)
    except TypeError as error:
        raise TypeError(f"fit: `train_base` cannot train this base: {error}; {advice}") from error
    constraints = bare_base(base).arg_constraints
    floats = {k: v for k, v in arguments.items() if _is_float(v)}
    if not floats:
        raise ValueError(
            f"fit: `train_base` was given, but a {type(bare_base(base)).__name__} has no parameters"
        )
    try:
        return {k: biject_to(constraints[k]).inv(jnp.asarray(v)) for k, v in floats.items()}
    except NotImplementedError as error:
        raise TypeError(
            f"fit: `train_base` cannot train a {type(bare_base(base)).__name__}, whose arguments "
            f"constrain each other; {advice}"
        ) from error


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.floating)
