"""The mode of the posterior of an image's latents, given some of its pixels."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

from flowdists.bijectors.base import Array
from flowdists.flow import Flow

_FIRST_NOISE = 10.0
_FRACTION_WITH_MORE_NOISE = 0.5
# With the default, 0.999, the large gradients of the first steps, on the way down to the valley,
# would make all later steps small.
_DECAY_OF_SQUARES = 0.9


class Posterior(NamedTuple):
    """The distribution of latents of images with some observed pixels, which have noise.

    Attributes:
      flow: the density of images.
      observed: images, ``(*batch, *event_shape)``; missing pixels hold any finite numbers.
      mask: boolean, of the same shape, True where a pixel was observed.
      noise_scale: standard deviation of the noise; broadcasts with the images.
    """

    flow: Flow
    observed: Array
    mask: Array
    noise_scale: Any

    @property
    def base(self) -> dist.Distribution:
        """The flow's base, with the joint batch shape of the images and the flow."""
        batch = self.mask.shape[: self.mask.ndim - self.flow.event_dim]
        return self.flow.base.expand(jnp.broadcast_shapes(batch, self.flow.batch_shape))

    @property
    def to_base(self) -> Any:
        """The map from unbounded space, where Adam iterates, onto the support of the base."""
        return dist.biject_to(self.base.support)

    def likelihood(self, x: Array, factor: Any = 1.0) -> dist.Distribution:
        """The distribution of pixels given the images ``x``, with ``factor`` times the noise."""
        noise = dist.Normal(x, factor * self.noise_scale)
        return noise.mask(self.mask).to_event(self.flow.event_dim)

    def log_joints(self, u: Array, *factors: Any) -> list[Array]:
        """Log joint densities of unconstrained latents and observed pixels.

        There is one for each factor, by which the noise is multiplied.
        """
        z = self.to_base(u)
        x, log_prior = self.flow.bijector(z), self.base.log_prob(z)
        return [
            log_prior + self.likelihood(x, factor).log_prob(self.observed) for factor in factors
        ]


def find_mode(
    key: Array, posterior: Posterior, *, learning_rate: Any, num_steps: int, num_chains: int
) -> Array:
    """Find the latents ``(*batch, *base_shape)`` of the highest posterior density, by Adam.

    Args:
      key: PRNG key for the starts of the chains.
      posterior: the distribution of the latents.
      learning_rate: the rate of the first step.
      num_steps: steps of Adam.
      num_chains: chains for each image.
    """
    known = jax.lax.stop_gradient((posterior, learning_rate))
    return posterior.to_base(_mode(_search(key, *known, num_steps, num_chains), posterior))


@functools.partial(jax.jit, static_argnames=("num_steps", "num_chains"))
def _search(
    key: Array, posterior: Posterior, learning_rate: Any, num_steps: int, num_chains: int
) -> Array:
    """For each image, the best unconstrained latents among all iterates of all chains."""
    flow, base, to_base = posterior.flow, posterior.base, posterior.to_base
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
    optimizer = optax.adam(schedule, b2=_DECAY_OF_SQUARES)
    powers = jnp.linspace(1.0, 1.0 - 1.0 / _FRACTION_WITH_MORE_NOISE, num_steps + 1)
    factors = _FIRST_NOISE ** jnp.maximum(powers, 0.0)

    def loss(u: Array, factor: Array) -> tuple[Array, Array]:
        now, wanted = posterior.log_joints(u, factor, 1.0)
        return -now.sum(), wanted  # chains and images do not interact, so that a sum will do

    def step(carry: tuple[Any, ...], factor: Array) -> tuple[tuple[Any, ...], None]:
        u, state, best, highest = carry
        gradient, log_joint = jax.grad(loss, has_aux=True)(u, factor)
        better = log_joint > highest  # false for NaN
        best = jnp.where(_over_events(better, u), u, best)
        updates, state = optimizer.update(gradient, state)
        highest = jnp.where(better, log_joint, highest)
        return (optax.apply_updates(u, updates), state, best, highest), None

    drawn = base.sample(key, (num_chains,))
    # With the observed pixels pasted in, chains start near images that agree with them.
    filled = flow.bijector.inverse(
        jnp.where(posterior.mask, posterior.observed, flow.bijector(drawn))
    )
    u = to_base.inv(filled)
    # Such an image may lie outside the support of the flow.
    u = jnp.where(jnp.isfinite(u), u, to_base.inv(drawn))
    highest = jnp.full((num_chains, *base.batch_shape), -jnp.inf, u.dtype)
    carry = (u, optimizer.init(u), jnp.full_like(u, jnp.nan), highest)
    # One more iteration than steps, to compare the result of the last step too.
    (_, _, best, highest), _ = jax.lax.scan(step, carry, factors)
    winner = _over_events(highest.argmax(0, keepdims=True), best)
    return jnp.take_along_axis(best, winner, axis=0)[0]


@jax.custom_vjp
def _mode(u: Array, posterior: Posterior) -> Array:
    """``u``, with the derivatives of a stationary point of the log joint density.

    The derivatives of Adam's iterates do not converge with the iterates, because Adam divides
    gradients by their size.
    """
    return u


def _mode_forward(u: Array, posterior: Posterior) -> tuple[Array, tuple[Array, Posterior]]:
    return u, (u, posterior)


def _mode_backward(saved: tuple[Array, Posterior], cotangent: Array) -> tuple[None, Posterior]:
    u, (flow, observed, mask, noise_scale) = saved

    def slope(u: Array, flow: Flow, observed: Array, noise_scale: Array) -> Array:
        posterior = Posterior(flow, observed, mask, noise_scale)
        return jax.grad(lambda u: -posterior.log_joints(u, 1.0)[0].sum())(u)

    # The derivative of the slope in `u` is symmetric, so that reverse mode, the only one that some
    # layers have, serves conjugate gradients.
    _, pull_back = jax.vjp(slope, u, flow, observed, noise_scale)
    solution, _ = jax.scipy.sparse.linalg.cg(lambda v: pull_back(v)[0], -cotangent)
    _, of_flow, of_observed, of_noise_scale = pull_back(solution)
    no_tangent: Any = np.zeros(mask.shape, jax.dtypes.float0)  # JAX's tangent of booleans
    return None, Posterior(of_flow, of_observed, no_tangent, of_noise_scale)


_mode.defvjp(_mode_forward, _mode_backward)


def _over_events(value: Array, like: Array) -> Array:
    """``value``, of a batch shape, with axes of size one appended up to the rank of ``like``."""
    return value.reshape(*value.shape, *[1] * (like.ndim - value.ndim))
