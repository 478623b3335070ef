"""Exact conditional distributions of flows, given some of their elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from flowdists import _check
from flowdists._constraints import bounds, is_real, lift_constraint
from flowdists.bases import (
    StandardLogistic,
    StandardNormal,
    StandardUniform,
    bare_base,
    describe_base,
)
from flowdists.bijectors.base import Bijector
from flowdists.bijectors.partition import Partition
from flowdists.conditionals.dependence import (
    closure,
    compose,
    dependence,
    elimination_order,
    follow,
)
from flowdists.conditionals.remainder import Remainder
from flowdists.flow import Flow


def given(flow: Flow, indices: Sequence[int], values: Any) -> Flow:
    r"""The distribution of the other elements of a flow's vectors, given some of them.

    .. math:: \log p(x_R \mid x_O) = \log p(x) - \log p(x_O)

    Density and samples are exact. This needs a flow in which the observed elements :math:`x_O` are
    a function of equally many latent variables and of no others: these are then known, and the
    other latent variables keep their distribution. Whether a flow is like this depends on its
    structure, not on its parameters. These flows are:

    * a :class:`~flowdists.MAF` or :class:`~flowdists.IAF` whose layers share one ``order``
      ("ascending", for example, but not "alternate", the default), for any number of the first
      elements of that order;
    * a single coupling layer, for any of the elements that it keeps.

    Gradients flow into ``values`` and the flow. The structure is found once for all flows that
    share it, from derivatives of their layers at random parameters. In addition to the flow's own
    cost, a density needs one derivative of the inverse for each observed element, once for all
    vectors that share an observation; a sample under ``jit`` needs one inverse.

    Args:
      flow: a flow of vectors, without batch axes. Its base has independent elements: one of ours,
        or a scalar NumPyro distribution for each element.
      indices: which elements are observed: distinct ints, negative ones counted from the end; at
        least one of them, and not all elements.
      values: ``(*batch, len(indices))``, floating point, in the order of ``indices``. Where the
        flow has no density, densities and samples are NaN.

    Returns:
      A flow of the other elements, in their order, with batch shape ``batch``.

    Raises:
      TypeError: if ``flow`` is not a flow, its base may have dependent elements, the indices are
        not ints, or the values not floating point.
      ValueError: if shapes or indices do not fit, or the flow's structure allows no exact answer;
        the message names the elements that could be observed.

    >>> flow = MAF(jax.random.key(0), (3,), order=(2, 0, 1), num_layers=1)
    >>> rest = given(flow, (2,), jnp.ones((5, 1)))
    >>> rest
    Flow(event_shape=(2,), batch_shape=(5,))
    >>> jax.jit(rest.log_prob)(jnp.zeros((1000, 5, 2))).shape
    (1000, 5)
    """
    size = _check_flow(flow)
    positions = _check_indices(indices, size)
    values = _check.float_array("given", "values", values)
    _check.event_shape("given", "values", values.shape, (len(positions),), 1)
    patterns = _patterns(flow.bijector, size)
    partitions = follow(patterns, positions)
    if partitions is None:
        raise ValueError(_explanation(compose(patterns), positions))
    known, rest = (_marginal(flow.base, p) for p in (partitions[-1].kept, partitions[-1].changed))
    values = values[..., np.argsort(positions)]
    layer = Remainder(flow.bijector, values, tuple(partitions), _pivots(patterns, partitions))
    return Flow(rest, _where_possible(known, layer), validate_args=flow._validate_args)


def _patterns(bijector: Bijector, size: int) -> list[np.ndarray]:
    """Which elements depend on which in the inverse of each layer, data side first."""
    patterns = []
    for layer in reversed(bijector.composition):
        _check_layer(layer, size)
        try:
            found = dependence(layer, size)
        except ValueError as error:
            raise ValueError(f"given: {error}") from None
        if not found.is_product:
            raise ValueError(
                "given: `flow` must have layers that bound elements one by one, if at all, got "
                f"{layer.name} onto {layer.codomain}"
            )
        patterns.append(found.pattern)
    return patterns


def _pivots(
    patterns: Sequence[np.ndarray], partitions: Sequence[Partition]
) -> tuple[int, ...] | None:
    """For each observed element, the known latent variable on the diagonal of their Jacobian."""
    pairs = elimination_order(compose(patterns))
    observed, known = partitions[0].kept, partitions[-1].kept
    return tuple(known.index(pairs[j]) for j in observed) if pairs.keys() >= set(observed) else None


def _explanation(pattern: np.ndarray, observed: tuple[int, ...]) -> str:
    others = sorted(set(closure(pattern, observed)) - set(observed))
    order = list(elimination_order(pattern))
    if order:
        possible = f"any number of the first elements of {_short(order)} could be"
    else:
        possible = (
            "every latent variable depends on several elements, so that no element could be; "
            "MAF(order='ascending') makes a flow in which any number of the first ones could be"
        )
    return (
        f"given: `indices` {_short(observed)} cannot be observed alone in this flow, whose latent "
        f"variables mix them with the elements {_short(others)}; {possible}"
    )


def _short(elements: Sequence[int]) -> str:
    shown = ", ".join(map(str, elements[:10]))
    return f"[{shown}, ...]" if len(elements) > 10 else f"[{shown}]"


def _where_possible(known: dist.Distribution, layer: Remainder) -> Remainder:
    """``layer``, with NaN for an observation whose latent variables have no density."""
    support = lift_constraint(known.support, 1)
    if is_real(support):
        return layer
    possible = support(layer.latents(layer.observed))[..., None]
    observed = jnp.where(possible, layer.observed, jnp.nan)
    return Remainder(layer.bijector, observed, layer.partitions, layer.pivots)


def _marginal(base: dist.Distribution, elements: tuple[int, ...]) -> dist.Distribution:
    """The distribution of some elements of a base with independent elements.

    Raises:
      TypeError: if the elements of the base are not known to be independent.
    """
    scalar = bare_base(base)
    if isinstance(scalar, StandardNormal | StandardLogistic):
        return type(scalar)((len(elements),))
    if isinstance(scalar, StandardUniform):
        return StandardUniform((len(elements),), scalar.low, scalar.high)
    try:
        _, arguments = describe_base(base)
        is_scalar = scalar.event_shape == ()
    except TypeError:
        is_scalar = False
    if not is_scalar:
        raise TypeError(
            "given: the base of `flow` must have independent elements (StandardNormal, "
            "StandardUniform, or a scalar distribution of NumPyro's with its parameters, expanded "
            f"or made an event), got {type(scalar).__name__}"
        )
    positions = np.array(elements)
    own = {k: jnp.broadcast_to(v, base.event_shape)[positions] for k, v in arguments.items()}
    # The arguments were accepted before, perhaps without validation: a temperature may be zero.
    return type(scalar)(**own, validate_args=False).to_event(1)


def _check_flow(flow: Any) -> int:
    """The number of elements of the flow's vectors."""
    if not isinstance(flow, Flow):
        raise TypeError(
            f"given: `flow` must be a Flow, got {type(flow).__name__}; `.condition(context)` of a "
            "ConditionalFlow is one"
        )
    if flow.batch_shape:
        raise ValueError(
            f"given: `flow` must have no batch axes, got batch shape {flow.batch_shape}; use "
            "jax.vmap"
        )
    if len(flow.event_shape) != 1 or flow.base.event_shape != flow.event_shape:
        raise ValueError(
            "given: `flow` must map vectors to vectors of the same length, got events of shape "
            f"{flow.base.event_shape} at the base and {flow.event_shape} at the data"
        )
    if bounds(flow.bijector.domain) is None:
        raise ValueError(
            "given: `flow` must have a bijector from vectors bounded element by element, if at "
            f"all, got {flow.bijector.name} on {flow.bijector.domain}"
        )
    return flow.event_shape[0]


def _check_layer(layer: Bijector, size: int) -> None:
    is_flat = max(layer.event_ndims_in, layer.event_ndims_out) <= 1
    if not is_flat or layer.inverse_shape((size,)) != (size,):
        raise ValueError(
            f"given: `flow` must have layers that take vectors of {size} elements to vectors of "
            f"{size}, got {layer.name}"
        )


def _check_indices(indices: Any, size: int) -> tuple[int, ...]:
    """The indices counted from the start, in their order."""
    if any(isinstance(index, bool) for index in np.asarray(indices, object).ravel()):
        raise TypeError(f"given: `indices` must be ints, got a mask: {indices!r}")
    given_indices = _check.integers("given", "indices", indices)
    if not all(-size <= index < size for index in given_indices):
        raise ValueError(
            f"given: `indices` must be from {-size} to {size - 1}, got {given_indices}"
        )
    positions = tuple(index % size for index in given_indices)
    if len(set(positions)) != len(positions):
        raise ValueError(f"given: `indices` must be distinct, got {given_indices}")
    if not 0 < len(positions) < size:
        raise ValueError(
            f"given: `indices` must name at least one of {size} elements, and leave at least one, "
            f"got {given_indices}"
        )
    return positions
