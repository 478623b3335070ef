"""The mode of the posterior of an image's latents given some of its pixels."""

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
_PART_WITH_MORE_NOISE = 0.5
# A gradient counts for fewer steps than by default (0.999): those of the fall into the valley would
# otherwise hold all later steps back.
_DECAY_OF_SQUARES = 0.9


class Posterior(NamedTuple):
    """Latents of images of which some pixels were observed, with noise.

    Attributes:
      flow: the density of images.
      observed: images, ``(*batch, *event_shape)``; any finite numbers where pixels are missing.
      mask: boolean, of the same shape, True where a pixel was observed.
      noise_scale: standard deviation of the noise; broadcasts with the images.
    """

    flow: Flow
    observed: Array
    mask: Array
    noise_scale: Any

    @property
    def base(self) -> dist.Distribution:
        """The flow's base, with a batch shape of the images and the flow."""
        batch = self.mask.shape[: self.mask.ndim - self.flow.event_dim]
        return self.flow.base.expand(jnp.broadcast_shapes(batch, self.flow.batch_shape))

    @property
    def to_base(self) -> Any:
        """From unbounded space onto the base's support, in which iterates have to stay."""
        return dist.biject_to(self.base.support)

    def likelihood(self, x: Array, factor: Any = 1.0) -> dist.Distribution:
        """What was observed, given the images ``x``, with ``factor`` times the noise."""
        noise = dist.Normal(x, factor * self.noise_scale)
        return noise.mask(self.mask).to_event(self.flow.event_dim)

    def log_joints(self, u: Array, *factors: Any) -> list[Array]:
        """Log joint densities of unconstrained latents and pixels, at multiples of the noise."""
        z = self.to_base(u)
        x, log_prior = self.flow.bijector(z), self.base.log_prob(z)
        return [
            log_prior + self.likelihood(x, factor).log_prob(self.observed) for factor in factors
        ]


def find_mode(
    key: Array, posterior: Posterior, *, learning_rate: Any, num_steps: int, num_chains: int
) -> Array:
    """The latents ``(*batch, *base_shape)`` of the highest posterior density that Adam finds.

    Args:
      key: PRNG key, for where the chains start.
      posterior: what is known.
      learning_rate: of the first step.
      num_steps: steps of Adam.
      num_chains: chains for each image.
    """
    known = jax.lax.stop_gradient((posterior, learning_rate))
    return posterior.to_base(_mode(_search(key, *known, num_steps, num_chains), posterior))


@functools.partial(jax.jit, static_argnames=("num_steps", "num_chains"))
def _search(
    key: Array, posterior: Posterior, learning_rate: Any, num_steps: int, num_chains: int
) -> Array:
    """The best latents, unconstrained, that any chain of each image has come by."""
    flow, base, to_base = posterior.flow, posterior.base, posterior.to_base
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
    optimizer = optax.adam(schedule, b2=_DECAY_OF_SQUARES)
    powers = jnp.linspace(1.0, 1.0 - 1.0 / _PART_WITH_MORE_NOISE, num_steps + 1)
    factors = _FIRST_NOISE ** jnp.maximum(powers, 0.0)

    def loss(u: Array, factor: Array) -> tuple[Array, Array]:
        now, wanted = posterior.log_joints(u, factor, 1.0)
        return -now.sum(), wanted  # the terms of a sum have gradients of their own

    def step(carry: tuple[Any, ...], factor: Array) -> tuple[tuple[Any, ...], None]:
        u, state, best, most = carry
        gradient, log_joint = jax.grad(loss, has_aux=True)(u, factor)
        better = log_joint > most  # never, for NaN
        best = jnp.where(_over_events(better, u), u, best)
        updates, state = optimizer.update(gradient, state)
        most = jnp.where(better, log_joint, most)
        return (optax.apply_updates(u, updates), state, best, most), None

    drawn = base.sample(key, (num_chains,))
    # With the observed pixels in place, which a draw would first have to find.
    filled = flow.bijector.inverse(
        jnp.where(posterior.mask, posterior.observed, flow.bijector(drawn))
    )
    u = to_base.inv(filled)
    u = jnp.where(jnp.isfinite(u), u, to_base.inv(drawn))  # such images may be out of bounds
    most = jnp.full((num_chains, *base.batch_shape), -jnp.inf, u.dtype)
    carry = (u, optimizer.init(u), jnp.full_like(u, jnp.nan), most)
    # One more than there are steps, to see where the last one leads.
    (_, _, best, most), _ = jax.lax.scan(step, carry, factors)
    winner = _over_events(most.argmax(0, keepdims=True), best)
    return jnp.take_along_axis(best, winner, axis=0)[0]


@jax.custom_vjp
def _mode(u: Array, posterior: Posterior) -> Array:
    """``u``, where the log joint density is stationary: that is what its derivatives go by.

    Those of Adam's iterates do not converge along with them, because it divides gradients by their
    own size.
    """
    return u


def _mode_forward(u: Array, posterior: Posterior) -> tuple[Array, tuple[Array, Posterior]]:
    return u, (u, posterior)


def _mode_backward(saved: tuple[Array, Posterior], cotangent: Array) -> tuple[None, Posterior]:
    u, (flow, observed, mask, noise_scale) = saved

    def slope(u: Array, flow: Flow, observed: Array, noise_scale: Array) -> Array:
        posterior = Posterior(flow, observed, mask, noise_scale)
        return jax.grad(lambda u: -posterior.log_joints(u, 1.0)[0].sum())(u)

    # Its derivative in u is symmetric; reverse mode is all that some layers have.
    _, pull_back = jax.vjp(slope, u, flow, observed, noise_scale)
    solution, _ = jax.scipy.sparse.linalg.cg(lambda v: pull_back(v)[0], -cotangent)
    _, of_flow, of_observed, of_noise_scale = pull_back(solution)
    no_tangent: Any = np.zeros(mask.shape, jax.dtypes.float0)  # as JAX wants it of booleans
    return None, Posterior(of_flow, of_observed, no_tangent, of_noise_scale)


_mode.defvjp(_mode_forward, _mode_backward)


def _over_events(value: Array, like: Array) -> Array:
    """``value``, of a batch shape, with axes of size one for the events of ``like``."""
    return value.reshape(*value.shape, *[1] * (like.ndim - value.ndim))
