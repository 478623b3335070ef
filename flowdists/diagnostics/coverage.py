"""The expected coverage of the highest-density regions of a conditional density."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.conditional_flow import ConditionalFlow
from flowdists.diagnostics._two_sets import check_finite
from flowdists.diagnostics.sbc import rank_among

Array = jax.Array


class CoverageResult(NamedTuple):
    """Ranks of true values by density, from :func:`expected_coverage`.

    Attributes:
      ranks: for each pair, how many draws have a higher density than the true value; ints from 0 to
        ``num_draws``, ``(n,)``. They are uniform if the flow is calibrated;
        :func:`~flowdists.uniformity_pvalues` tests that.
      num_draws: how many draws there were for each pair.

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
        """Level of the smallest highest-density region that holds the true value, ``(n,)``."""
        return self.ranks / self.num_draws

    def coverage(self, nominal: Any) -> np.ndarray:
        r"""The fraction of pairs whose highest-density region of a level holds the true value.

        For a calibrated flow its expectation is the level itself, for any number of draws: each
        rank stands for the interval of levels from ``rank / (num_draws + 1)`` to
        ``(rank + 1) / (num_draws + 1)``, and counts as a fraction if the nominal level is inside.
        The standard error is then :math:`\sqrt{a (1 - a) / n}` at level a. A flow with coverage
        below the level is too narrow or in the wrong place; above the level, it is too wide.

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
        fractions = np.append(0.0, np.cumsum(counts)) / len(self.ranks)
        return np.interp(levels, np.linspace(0, 1, self.num_draws + 2), fractions)


def expected_coverage(
    key: Array,
    flow: ConditionalFlow,
    x: Any,
    context: Any,
    *,
    num_draws: int = 1000,
    batch_size: int = 32,
) -> CoverageResult:
    """How often highest-density regions hold the true value, over pairs of value and context.

    The pairs are drawn from the joint distribution. For each pair, this counts the draws of the
    flow given the context that have a higher density than the value. Their fraction is the
    credibility of the smallest highest-density region that holds the value. It is uniform if the
    flow is the conditional distribution (Hermans, Delaunoy, Rozet, Wehenkel, Begy and Louppe 2022,
    https://arxiv.org/abs/2110.06581; by draws, Deistler, Gonçalves and Macke 2022,
    https://arxiv.org/abs/2210.04815).

    The regions are joint, of all elements at once; :func:`~flowdists.sbc_ranks` tests each element
    by itself. Both tests are necessary, but not sufficient: a flow that ignores the context and is
    the marginal distribution of ``x`` passes.

    Args:
      key: PRNG key.
      flow: the conditional density.
      x: values, ``(n, *event_shape)``, each drawn together with its context. The flow must not have
        been trained on them.
      context: contexts, ``(n, *context_shape)``; labels ``(n,)`` for a flow with classes.
      num_draws: how many draws from the flow for each pair: the credibility is known to one part in
        this number.
      batch_size: how many pairs are computed at a time. The ranks do not depend on it.

    Returns:
      The ranks; ties, as of a flow with constant density, are broken at random.

    Raises:
      TypeError: for arguments of the wrong kind.
      ValueError: if shapes do not fit, or values or contexts are not finite.
      FloatingPointError: if a density is NaN; the error says for how many pairs, and which is the
        first.

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
            f"at their draws; the first is at index {int(undefined.argmax())}"
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
        return rank_among(tie_key, -own, -others), jnp.isnan(own) | jnp.isnan(others).any()

    keys = jax.random.split(key, len(x))
    return jax.lax.map(rank, (keys, x, context), batch_size=batch_size)
