"""What a fit trains: the bijector's leaves, and a base's arguments in unconstrained space."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import biject_to

from flowdists.bases import bare_base, build_base, describe_base
from flowdists.bijectors.base import Bijector
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.io.names import named_leaves

Array = jax.Array
AnyFlow = Flow | ConditionalFlow


class Parameters(NamedTuple):
    """What is trained of a flow, a pytree of float arrays.

    Attributes:
      bijector: the bijector.
      base: the base's arguments by name, mapped to unconstrained space; empty unless trained.
    """

    bijector: Bijector
    base: dict[str, Array]


def take_parameters(flow: AnyFlow, train_base: bool) -> Parameters:
    """Copy what is trained out of ``flow``.

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
    # A copy, because training reuses the memory of its parameters; with a definite type, because a
    # weak one would change after the first step and cause a second compilation.
    parameters = jax.tree.map(
        lambda leaf: jnp.array(leaf, jnp.result_type(leaf)), Parameters(flow.bijector, base)
    )
    if not jax.tree.leaves(parameters):
        raise ValueError("fit: `flow` has no parameters to train")
    return parameters


def put_parameters(flow: AnyFlow, parameters: Parameters) -> AnyFlow:
    """``flow`` with ``parameters`` in place of its own."""
    if not parameters.base:
        return flow.replace(bijector=parameters.bijector)
    spec, arguments = describe_base(flow.base)
    constraints = bare_base(flow.base).arg_constraints
    trained = {k: biject_to(constraints[k])(v) for k, v in parameters.base.items()}
    base = build_base(spec, {**arguments, **trained})
    return flow.replace(base=base, bijector=parameters.bijector)


def _unconstrained(base: dist.Distribution) -> dict[str, Array]:
    """The floating-point arguments of ``base`` by name, mapped to unconstrained space."""
    bare = bare_base(base)
    advice = "leave `train_base` off, or put a trainable layer such as Affine in its place"
    try:
        _, arguments = describe_base(base)
        unconstrained = {
            name: biject_to(bare.arg_constraints[name]).inv(jnp.asarray(value))
            for name, value in arguments.items()
            if jnp.issubdtype(jnp.result_type(value), jnp.floating)
        }
    except TypeError as error:
        raise TypeError(f"fit: `train_base` cannot train this base: {error}; {advice}") from error
    except NotImplementedError as error:
        raise TypeError(
            f"fit: `train_base` cannot train a {type(bare).__name__}, whose arguments constrain "
            f"each other; {advice}"
        ) from error
    if not unconstrained:
        raise ValueError(
            f"fit: `train_base` was given, but a {type(bare).__name__} has no parameters"
        )
    return unconstrained
