"""Whether the credible regions of a conditional density hold as much as they promise."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.diagnostics._two_sets import check_finite
from flowdists.distribution import ConditionalFlow

Array = jax.Array


class CoverageResult(NamedTuple):
    """Ranks of true values by density, from :func:`expected_coverage`.

    Attributes:
      ranks: for each pair, how many draws have a higher density than the true value; ints from 0 to
        ``num_draws``, ``(n,)``. Uniform if the flow is calibrated, which
        :func:`~flowdists.uniformity_pvalues` tests.
      num_draws: how many draws there were of each pair.

    >>> import numpy as np
    >>> from flowdists.diagnostics import CoverageResult
    >>> even = CoverageResult(ranks=np.arange(100) % 10, num_draws=9)
    >>> even.coverage([0.5, 0.9])
    array([0.5, 0.9])
    """

    ranks: np.ndarray
    num_draws: int

    @property
    def credibility(self) -> np.ndarray:
        """Level of the smallest region of highest density that holds the true value, ``(n,)``."""
        return self.ranks / self.num_draws

    def coverage(self, nominal: Any) -> np.ndarray:
        r"""The share of pairs whose region of highest density, of a given level, holds the truth.

        Of a calibrated flow it is the level itself, in expectation, whatever the number of draws:
        each rank stands for an interval of levels, ``rank / (num_draws + 1)`` to
        ``(rank + 1) / (num_draws + 1)``, and counts in part where the nominal level is within. Its
        standard error is then :math:`\sqrt{a (1 - a) / n}` at level a. Below the level: the flow
        is too narrow, or in the wrong place; above: too wide.

        Args:
          nominal: levels from 0 to 1, any shape.

        Returns:
          Coverages, of the shape of ``nominal``.

        Raises:
          ValueError: for a level that is not from 0 to 1.
        """
        levels = np.asarray(nominal, float)
        if not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"coverage: `nominal` must be from 0 to 1, got {nominal}")
        counts = np.bincount(self.ranks, minlength=self.num_draws + 1)
        shares = np.append(0.0, np.cumsum(counts)) / len(self.ranks)
        return np.interp(levels, np.linspace(0, 1, self.num_draws + 2), shares)


def expected_coverage(
    key: Array,
    flow: ConditionalFlow,
    x: Any,
    context: Any,
    *,
    num_draws: int = 1000,
    batch_size: int = 32,
) -> CoverageResult:
    """How often regions of highest density hold the true value, over pairs of value and context.

    For each pair of the joint distribution, the share of the flow's draws given the context whose
    density exceeds that of the value: the credibility of the smallest region of highest density
    that holds it. These are uniform if the flow is the conditional distribution (Hermans, Delaunoy,
    Rozet, Wehenkel, Begy and Louppe 2022, "A trust crisis in simulation-based inference?";
    Deistler, Goncalves and Macke 2022, "Truncated proposals for scalable and hassle-free
    simulation-based inference").

    Regions are joint, of all elements at once, where :func:`~flowdists.sbc_ranks` looks at
    each element by itself. Like that test it is necessary, not sufficient: a flow that ignores the
    context and is the marginal distribution of ``x`` passes.

    Args:
      key: PRNG key.
      flow: the conditional density.
      x: values, ``(n, *event_shape)``, each drawn together with its context, and none that the flow
        was trained on.
      context: contexts, ``(n, *context_shape)``; labels ``(n,)`` for a flow with classes.
      num_draws: how many draws from the flow for each pair. Only that many plus one levels can be
        told apart.
      batch_size: how many pairs are computed at a time. The ranks do not depend on it.

    Returns:
      The ranks; ties, as of a flow of constant density, are broken at random.

    Raises:
      TypeError: for arguments of the wrong kind.
      ValueError: if shapes do not fit, or values or contexts are not finite.
      FloatingPointError: if a density is NaN; it says of how many pairs, and of which first.

    >>> from flowdists.diagnostics import expected_coverage
    >>> layer = AffineCoupling(jax.random.key(0), (2,), context_shape=(1,))  # the identity
    >>> flow = ConditionalFlow(StandardNormal((2,)), layer)
    >>> x, context = jax.random.normal(jax.random.key(1), (500, 2)), jnp.ones((500, 1))
    >>> result = expected_coverage(jax.random.key(2), flow, x, context, num_draws=99)
    >>> bool(abs(result.coverage(0.9) - 0.9) < 0.05)
    True
    >>> bool(uniformity_pvalues({"x": result.ranks}, result.num_draws)["x"] > 0.001)
    True
    """
    caller = "expected_coverage"
    key = _check.key(caller, key)
    if not isinstance(flow, ConditionalFlow):
        raise TypeError(f"{caller}: `flow` must be a ConditionalFlow, got {type(flow).__name__}")
    x = _check.float_array(caller, "x", x)
    context = flow.as_context(caller, context)
    if x.shape[1:] != flow.event_shape or x.ndim == 0 or len(x) == 0:
        raise ValueError(
            f"{caller}: `x` must have shape (n, *event_shape), with n of at least 1 and event "
            f"shape {flow.event_shape}, got {x.shape}"
        )
    if context.shape != (len(x), *flow.context_shape):
        raise ValueError(
            f"{caller}: `context` must have shape {(len(x), *flow.context_shape)}, one context "
            f"for each row of `x`, got {context.shape}"
        )
    check_finite(caller, "x", x)
    num_draws = _check.positive_int(caller, "num_draws", num_draws)
    batch_size = min(_check.positive_int(caller, "batch_size", batch_size), len(x))
    ranks, undefined = _ranks(key, flow, x, context, num_draws=num_draws, batch_size=batch_size)
    if undefined.any():
        raise FloatingPointError(
            f"{caller}: the density is NaN at {int(undefined.sum())} of {len(x)} values of `x`, or "
            f"among their draws; first of the one at index {int(undefined.argmax())}"
        )
    return CoverageResult(np.asarray(ranks), num_draws)


@functools.partial(jax.jit, static_argnames=("num_draws", "batch_size"))
def _ranks(
    key: Array,
    flow: ConditionalFlow,
    x: Array,
    context: Array,
    *,
    num_draws: int,
    batch_size: int,
) -> tuple[Array, Array]:
    def rank(pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        key, x, context = pair
        draw_key, tie_key = jax.random.split(key)
        conditioned = flow.condition(context)
        _, others = conditioned.sample_and_log_prob(draw_key, (num_draws,))
        own = conditioned.log_prob(x)
        equal = jnp.sum(others == own)
        above = jnp.sum(others > own) + jax.random.randint(tie_key, (), 0, equal + 1)
        return above, jnp.isnan(own) | jnp.isnan(others).any()

    keys = jax.random.split(key, len(x))
    return jax.lax.map(rank, (keys, x, context), batch_size=batch_size)
