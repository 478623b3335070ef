"""Pathfinder: a Gaussian close to a posterior, found along the path of an optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from numpyro.distributions.transforms import AffineTransform, LowerCholeskyAffine

from flowdists.bijectors import Bijector, Foreign

Array = jax.Array
Function = Callable[[Array], Array]

MAX_HESSIAN_DIM = 128
"""With more latent dimensions than this, only the diagonal of the Hessian is estimated."""

_NUM_ITERATIONS = 60
_NUM_DRAWS = 64
_NUM_PROBES = 32

_NO_DERIVATIVE = (TypeError, ValueError, NotImplementedError)  # JAX's errors without a derivative


class Gaussian(NamedTuple):
    """A normal distribution of vectors.

    Attributes:
      loc: the mean.
      scale: a lower triangular factor of the covariance, or the standard deviations.
    """

    loc: Array
    scale: Array

    def as_layer(self) -> Bijector:
        """The map from standard normal draws to draws of this distribution; it is not trained."""
        if self.scale.ndim == 1:
            return Foreign(AffineTransform(self.loc, self.scale))
        return Foreign(LowerCholeskyAffine(self.loc, self.scale))


def pathfinder(key: Array, potential: Function, position: Array) -> Gaussian:
    """The Gaussian with the best ELBO along an optimization path.

    L-BFGS maximizes the log-density from ``position`` on. Each point of its path gives a Gaussian
    with the curvature at that point. This also works for a posterior without a mode, such as that
    of a hierarchical scale (Zhang et al. 2022, https://arxiv.org/abs/2108.03782).

    In contrast to the paper, curvatures are exact, not the estimates of L-BFGS, up to
    :data:`MAX_HESSIAN_DIM` dimensions. With more dimensions they are diagonal, by Hutchinson's
    estimate. If the gradient has no derivative (because a function has a reverse rule of its own,
    or is a special function), its finite differences are used.

    Args:
      key: PRNG key for the draws that estimate the ELBOs.
      potential: minus the log-density, a function of a vector.
      position: where to start, ``(size,)``.

    Returns:
      The Gaussian. It is NaN if no ELBO along the path is finite.
    """
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(potential)

    def step(carry: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, Array], Array]:
        x, state = carry
        value, grad = value_and_grad(x, state=state)
        updates, state = solver.update(grad, state, x, value=value, grad=grad, value_fn=potential)
        return (optax.apply_updates(x, updates), state), x

    carry = (position, solver.init(position))
    _, path = jax.lax.scan(step, carry, length=_NUM_ITERATIONS)

    draw_key, probe_key = jax.random.split(key)
    half = jax.random.normal(draw_key, (_NUM_DRAWS // 2, position.size), position.dtype)
    # In pairs with mean zero: otherwise a point next to the mean of a normal posterior could win.
    noise = jnp.concatenate([half, -half])
    is_dense = position.size <= MAX_HESSIAN_DIM
    curvature = _dense if is_dense else lambda p, x: _diagonal(probe_key, p, x)

    def fit(x: Array) -> tuple[Array, Gaussian]:
        scale, newton_step = curvature(potential, x)

        def elbo(loc: Array) -> Array:
            draws = loc + (noise @ scale.T if is_dense else noise * scale)
            log_volume = jnp.log(jnp.diag(scale) if is_dense else scale).sum()
            return log_volume - jax.lax.map(potential, draws, batch_size=16).mean()

        # The mean is the point itself, or the mode according to its curvature.
        candidates = jnp.stack([x, x + newton_step])
        elbos = jax.vmap(elbo)(candidates)
        elbos = jnp.where(jnp.isfinite(elbos), elbos, -jnp.inf)
        best = elbos.argmax()
        return elbos[best], Gaussian(candidates[best], scale)

    elbos, starts = jax.lax.map(fit, path)
    best = elbos.argmax()
    return jax.tree.map(lambda x: jnp.where(elbos[best] > -jnp.inf, x[best], jnp.nan), starts)


def _dense(potential: Function, x: Array) -> tuple[Array, Array]:
    """The factor of the inverse of the absolute Hessian at ``x``, and Newton's step."""
    hessian = _times_hessian(potential, x, jnp.eye(x.size, dtype=x.dtype), jax.vmap)
    # In units in which the diagonal is one. Otherwise rounding would destroy small eigenvalues, as
    # correlated predictors that are not centred have them.
    units = jax.lax.rsqrt(_positive(jnp.diag(hessian), 1e-12))
    values, vectors = jnp.linalg.eigh(hessian * units * units[:, None])
    factor = units[:, None] * vectors / jnp.sqrt(_positive(values))
    covariance = factor @ factor.T
    return jnp.linalg.cholesky(covariance), -covariance @ jax.grad(potential)(x)


def _positive(curvature: Array, fraction: float = 1e-6) -> Array:
    """The absolute curvature, and at least a fraction of the largest, so that scales are finite."""
    size = jnp.abs(curvature)
    return jnp.maximum(size, fraction * size.max())


def _diagonal(key: Array, potential: Function, x: Array) -> tuple[Array, Array]:
    """The standard deviations of the best independent Gaussian at ``x``, and Newton's step."""
    signs = jax.random.rademacher(key, (_NUM_PROBES, x.size), x.dtype)
    products = _times_hessian(potential, x, signs, lambda f: functools.partial(jax.lax.map, f))
    diagonal = _positive((signs * products).mean(0))
    return jax.lax.rsqrt(diagonal), -jax.grad(potential)(x) / diagonal


def _times_hessian(
    potential: Function, x: Array, vectors: Array, mapped: Callable[[Function], Function]
) -> Array:
    """The Hessian at ``x`` times each of ``vectors``, in the cheapest way that works."""
    gradient = jax.grad(potential)

    def forward(vector: Array) -> Array:
        return jax.jvp(gradient, (x,), (vector,))[1]

    def reverse(vector: Array) -> Array:
        return jax.grad(lambda x: jnp.vdot(gradient(x), vector))(x)

    def differences(vector: Array) -> Array:
        # Unconstrained coordinates are logarithms and the like, so their scale is about one. The
        # cube root makes truncation and rounding errors about equal.
        step = jnp.finfo(x.dtype).eps ** (1 / 3) * jnp.maximum(1.0, jnp.abs(x * vector).max())
        ahead, behind = x + step * vector, x - step * vector
        return (gradient(ahead) - gradient(behind)) / (2 * step)

    for product in (forward, reverse):
        try:
            return mapped(product)(vectors)
        except _NO_DERIVATIVE:  # an error in the model itself is raised again below
            continue
    return mapped(differences)(vectors)
