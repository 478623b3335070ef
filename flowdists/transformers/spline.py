r"""Rational-quadratic splines, fast on a CPU and finite everywhere.

One bin of the spline, from knot :math:`(x_0, y_0)` with width :math:`w`, height :math:`h` and end
slopes :math:`d_0, d_1`, is a map of the unit interval onto itself. With
:math:`\xi = (x - x_0) / w`, :math:`\eta = (y - y_0) / h` and the relative slopes
:math:`a_i = d_i w / h` it reads (Durkan et al. 2019, https://arxiv.org/abs/1906.04032, eq. 4 and 5,
divided by :math:`h / w`)

.. math::
    \eta = g(\xi) = \frac{\xi (\xi + a_0 \bar\xi)}{D}, \qquad
    g'(\xi) = \frac{a_1 \xi^2 + 2 \xi \bar\xi + a_0 \bar\xi^2}{D^2}, \qquad
    D = \xi^2 + \bar\xi^2 + (a_0 + a_1) \xi \bar\xi, \qquad \bar\xi = 1 - \xi.

All terms are positive, so nothing cancels. Nothing cancels in its inverse either, see
:func:`_solve`.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from flowdists.transformers.base import Transformer

__all__ = ["RationalQuadratic"]

Array = jax.Array

_TAILS = ("linear", "circular")


@dataclass(frozen=True)
class RationalQuadratic(Transformer):
    r"""Monotone rational-quadratic spline on ``[-bound, bound]``.

    From Durkan et al. 2019 (https://arxiv.org/abs/1906.04032). With ``K = num_bins`` the parameters
    are ``K`` widths, ``K`` heights and the slopes at the knots, all unconstrained:

    .. math::
        w = 2B \, (w_{\min} + (1 - K w_{\min}) \operatorname{softmax}(r_w)), \qquad
        d = d_{\min} + (1 - d_{\min}) \operatorname{softplus}(r_d) / \log 2,

    and heights like widths. Zeros therefore give equal bins of unit slope: the identity.

    * ``tails="linear"``: ``3K - 1`` parameters. The slope is 1 at both bounds and the map is
      the identity outside them, so that it is continuously differentiable on the real line.
    * ``tails="circular"``: ``3K`` parameters, for angles (Rezende et al. 2020,
      https://arxiv.org/abs/2002.02428). The two ends share the first slope, and inputs outside
      the interval are wrapped onto it. The bound is a fixed point of every such map. Add a shift
      of the angle to move it.

    Values, first and second derivatives are finite, in float32 even for parameters of ±1000.

    >>> spline = RationalQuadratic(num_bins=5)
    >>> y, log_slope = spline.forward(jnp.array([0.5, 9.0]), jnp.zeros((spline.num_params, 2)))
    >>> print(y)
    [0.5 9. ]
    """

    num_bins: int = 8
    bound: float = 3.0
    tails: str = "linear"
    min_width: float = 1e-3
    min_height: float = 1e-3
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        def require(valid: bool, name: str, expected: str) -> None:
            if not valid:
                given = getattr(self, name)
                raise ValueError(f"RationalQuadratic: {name} must be {expected}, got {given!r}")

        require(self.num_bins >= 2, "num_bins", "at least 2")
        require(math.isfinite(self.bound) and self.bound > 0, "bound", "positive and finite")
        require(self.tails in _TAILS, "tails", f"one of {_TAILS}")
        for name in ("min_width", "min_height"):
            valid = 0 < getattr(self, name) < 1 / self.num_bins
            require(valid, name, f"between 0 and 1 / num_bins = {1 / self.num_bins:g}, exclusive")
        require(0 < self.min_slope < 1, "min_slope", "between 0 and 1, exclusive")

    @property
    def num_params(self) -> int:
        return 3 * self.num_bins - (self.tails == "linear")

    @property
    def domain(self) -> constraints.Constraint:
        if self.tails == "linear":
            return constraints.real
        return constraints.open_interval(-self.bound, self.bound)

    def forward(self, x: ArrayLike, params: ArrayLike) -> tuple[Array, Array]:
        x, params = self._as_arrays(x, params)
        x_in, inside = self._restrict(x)
        widths, heights, raw_slopes = self._bins(params)
        index = self._search(x_in, widths)
        x0, w, y0, h, a0, a1 = self._one_bin(index, widths, heights, raw_slopes)
        xi = _clip_rounding((x_in - x0) / w)
        y = y0 + h * _curve(xi, a0, a1)
        log_slope = jnp.log(h / w * _curve_slope(xi, a0, a1))
        return jnp.where(inside, y, x), jnp.where(inside, log_slope, 0.0)

    def inverse(self, y: ArrayLike, params: ArrayLike) -> tuple[Array, Array]:
        y, params = self._as_arrays(y, params)
        y_in, inside = self._restrict(y)
        widths, heights, raw_slopes = self._bins(params)
        index = self._search(y_in, heights)
        x0, w, y0, h, a0, a1 = self._one_bin(index, widths, heights, raw_slopes)
        xi = _solve(_clip_rounding((y_in - y0) / h), a0, a1)
        x = x0 + w * xi
        log_slope = -jnp.log(h / w * _curve_slope(xi, a0, a1))
        return jnp.where(inside, x, y), jnp.where(inside, log_slope, 0.0)

    def _restrict(self, x: Array) -> tuple[Array, Array | bool]:
        """Return an input within the bounds, and a mask of where its result is used.

        The mask selects the results again at the end. Otherwise an infinite or huge value would
        make the gradient NaN, even if its result is discarded.
        """
        if self.tails == "linear":
            inside = jnp.abs(x) < self.bound
            return jnp.where(inside, x, 0.0), inside
        wrapped = jnp.remainder(x + self.bound, 2 * self.bound) - self.bound
        # Within the bounds nothing is wrapped, not even by the rounding of the sums.
        return jnp.where(jnp.abs(x) <= self.bound, x, wrapped), True

    def _bins(self, params: Array) -> tuple[Array, Array, Array]:
        """Return widths and heights ``(K, ...)`` and the raw slopes, ``(K - 1, ...)`` or ``K``."""
        k = self.num_bins
        return (
            self._partition(params[:k], self.min_width),
            self._partition(params[k : 2 * k], self.min_height),
            params[2 * k :],
        )

    def _partition(self, logits: Array, minimum: float) -> Array:
        """Divide the interval into sizes, each at least the fraction ``minimum`` of its length."""
        length = 2 * self.bound
        weights = jnp.exp(logits - lax.stop_gradient(jnp.max(logits, axis=0)))
        free = length * (1 - self.num_bins * minimum)
        return length * minimum + free / jnp.sum(weights, axis=0) * weights

    def _search(self, x: Array, sizes: Array) -> Array:
        """Return the bin of ``x``, an int32 array of ``x``'s shape.

        It is a sum over stacked comparisons, because XLA keeps the result of a reduction. It would
        repeat elementwise operations for each bin, in each of the gradients.
        """
        edge, passed = -self.bound, []
        for size in sizes[:-1]:
            edge = edge + size
            passed.append(x >= edge)
        return lax.optimization_barrier(jnp.sum(jnp.stack(passed), axis=0, dtype=jnp.int32))

    def _one_bin(
        self, index: Array, widths: Array, heights: Array, raw_slopes: Array
    ) -> tuple[Array, ...]:
        """Return corner, width, height and relative end slopes of each scalar's bin."""
        periodic = self.tails == "circular"
        left, w, bottom, h, raw0, raw1 = _select(periodic, index, widths, heights, raw_slopes)
        # The softplus is computed only for the two slopes that are used.
        d0, d1 = self._slope(raw0), self._slope(raw1)
        return left - self.bound, w, bottom - self.bound, h, d0 * w / h, d1 * w / h

    def _slope(self, raw: Array) -> Array:
        return self.min_slope + (1 - self.min_slope) / math.log(2) * jax.nn.softplus(raw)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _select(
    periodic: bool, index: Array, widths: Array, heights: Array, raw_slopes: Array
) -> tuple[Array, ...]:
    """Return ``(left, width, bottom, height, raw_slope_left, raw_slope_right)`` of bin ``index``.

    ``left`` and ``bottom`` are distances from the first knot. At the two outer knots of a spline
    that is not ``periodic`` the raw slope is 0. Shapes: ``index`` and all results ``S``, the
    others ``(K or K - 1, *S)``.

    On a CPU a running ``where`` over the bins takes less than half the time of a gather. Its
    automatic derivative takes longer, so the rule below uses that the map is linear, given
    ``index``.
    """
    num_bins = len(widths)
    if periodic:
        slopes = [*raw_slopes, raw_slopes[0]]
    else:
        outer = jnp.zeros_like(raw_slopes[0])
        slopes = [outer, *raw_slopes, outer]
    left = bottom = jnp.zeros_like(widths[0])
    chosen = [left, widths[0], bottom, heights[0], slopes[0], slopes[1]]
    for k in range(1, num_bins):
        left, bottom = left + widths[k - 1], bottom + heights[k - 1]
        candidate = (left, widths[k], bottom, heights[k], slopes[k], slopes[k + 1])
        chosen = [
            jnp.where(index >= k, new, old) for new, old in zip(candidate, chosen, strict=True)
        ]
    return tuple(jnp.broadcast_to(value, index.shape) for value in chosen)


@_select.defjvp
def _select_jvp(periodic: bool, primals: Any, tangents: Any) -> tuple[Any, Any]:
    index, widths, _, _ = primals
    _, widths_dot, heights_dot, slopes_dot = tangents
    num_bins = len(widths)
    bins = jnp.arange(num_bins, dtype=index.dtype).reshape(-1, *(1,) * index.ndim)
    knots = bins[: len(slopes_dot)]

    def pick(mask: Array, tangent: Array) -> Array:
        return jnp.sum(jnp.where(mask, tangent, 0.0), axis=0)

    out_dot = (
        pick(bins < index, widths_dot),
        pick(bins == index, widths_dot),
        pick(bins < index, heights_dot),
        pick(bins == index, heights_dot),
        pick(knots == index - 1 + periodic, slopes_dot),
        pick(knots == (index + periodic) % num_bins, slopes_dot),
    )
    # Transposed, the barrier keeps the six cotangents; XLA would compute them again in every bin.
    return _select(periodic, *primals), lax.optimization_barrier(out_dot)


def _clip_rounding(xi: Array) -> Array:
    """Clip rounding errors to ``[0, 1]``, with the derivative of the identity."""
    return xi + lax.stop_gradient(jnp.clip(xi, 0.0, 1.0) - xi)


def _curve(xi: Array, a0: Array, a1: Array) -> Array:
    """The curve ``g`` of the unit interval, defined at the top of this file."""
    co_xi = 1 - xi
    mixed = xi * co_xi
    return (xi * xi + a0 * mixed) / (xi * xi + co_xi * co_xi + (a0 + a1) * mixed)


def _curve_slope(xi: Array, a0: Array, a1: Array) -> Array:
    """The derivative of ``g`` with respect to ``xi``."""
    co_xi = 1 - xi
    mixed = xi * co_xi
    denominator = xi * xi + co_xi * co_xi + (a0 + a1) * mixed
    return (a1 * xi * xi + 2 * mixed + a0 * co_xi * co_xi) / (denominator * denominator)


@jax.custom_jvp
def _solve(eta: Array, a0: Array, a1: Array) -> Array:
    r"""Return the ``xi`` in [0, 1] with ``g(xi) = eta``.

    With :math:`\bar\eta = 1 - \eta` and :math:`e = a_0 \bar\eta - a_1 \eta`, the quadratic of
    Durkan et al. (2019, eq. 6-8) has the discriminant :math:`e^2 + 4 \eta \bar\eta`, a sum of
    positive terms, and with :math:`m = |e| + \sqrt{e^2 + 4 \eta \bar\eta}` the root is

    .. math::
        \xi = \frac{2 \eta}{2 \eta + m} \text{ if } e \ge 0, \qquad
        \xi = \frac{m}{2 \bar\eta + m} \text{ otherwise}.

    The usual formula loses all digits in float32 where ``a0`` or ``a1`` is large.
    """
    co_eta = 1 - eta
    e = a0 * co_eta - a1 * eta
    m = jnp.abs(e) + jnp.sqrt(e * e + 4 * eta * co_eta)
    rising = e >= 0
    return jnp.where(rising, 2 * eta, m) / (jnp.where(rising, 2 * eta, 2 * co_eta) + m)


@_solve.defjvp
def _solve_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Differentiate ``g(xi; a) = eta``: ``g' dxi + dg/da da = deta``, exact and never 0 / 0."""
    _, *a = primals
    eta_dot, *a_dot = tangents
    xi = _solve(*primals)
    _, curve_dot = jax.jvp(partial(_curve, xi), a, a_dot)
    return xi, (eta_dot - curve_dot) / _curve_slope(xi, *a)
