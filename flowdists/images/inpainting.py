"""Missing pixels, inferred from those that were observed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro

from flowdists import _check
from flowdists.bijectors.base import Array
from flowdists.flow import Flow
from flowdists.images import check
from flowdists.images.latents import as_flow, broadcast
from flowdists.images.posterior_mode import Posterior, find_mode


def inpainting_model(flow: Flow, observed: Any, mask: Any, noise_scale: Any = 0.05) -> Array:
    r"""A NumPyro model of images of which some pixels were observed, with noise.

    .. math:: z \sim p_z, \qquad x = f(z), \qquad
        \mathrm{observed}_i \sim N(x_i, \sigma) \quad \text{for } i \text{ in the mask}

    Its latent site is ``z``, a value of the flow's base for each image; ``x``, the images, is
    deterministic. For SVI, with any guide, and MCMC: the posterior of ``x`` has what the missing
    pixels may be. The smaller the noise, the harder the sampler's work.

    Args:
      flow: the density of images.
      observed: images, ``(*batch, *event_shape)``. What missing pixels hold does not matter, and
        may be NaN.
      mask: boolean, True where a pixel was observed. Broadcasts with ``observed``: of shape
        ``(H, W, 1)``, say, for all images and channels.
      noise_scale: standard deviation of the noise, a number or an array that broadcasts with the
        images.

    Returns:
      The images ``x``, ``(*batch, *event_shape)``.

    Raises:
      TypeError: if ``flow`` is not a Flow, ``observed`` not floating point or ``mask`` not boolean.
      ValueError: if shapes do not fit; if the noise is known and not positive; or if observed
        pixels are known to hold NaN, or levels 0 to 255 cast to floats.

    >>> from flowdists.images import inpainting_model
    >>> from numpyro.infer import MCMC, NUTS
    >>> flow = Flow(StandardNormal((2, 2, 1)), Reverse((2, 2, 1)))
    >>> observed, mask = jnp.ones((2, 2, 1)), jnp.array([[[True], [True]], [[False], [False]]])
    >>> mcmc = MCMC(NUTS(inpainting_model), num_warmup=10, num_samples=20, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), flow, observed, mask)
    >>> mcmc.get_samples()["x"].shape
    (20, 2, 2, 1)
    """
    caller = "inpainting_model"
    flow, observed, mask = _as_observed(caller, flow, observed, mask)
    _check_scale(caller, noise_scale)
    posterior = Posterior(flow, observed, mask, noise_scale)
    base = posterior.base
    # One event, since its batch axes belong to no plate.
    z = numpyro.sample("z", base.to_event(len(base.batch_shape)))
    x = numpyro.deterministic("x", flow.bijector(z))
    likelihood = posterior.likelihood(x)
    numpyro.sample("observed", likelihood.to_event(len(likelihood.batch_shape)), obs=observed)
    return x


def inpaint(
    key: Array,
    flow: Flow,
    observed: Any,
    mask: Any,
    *,
    noise_scale: Any = 0.05,
    num_steps: int = 500,
    learning_rate: Any = 0.05,
    num_chains: int = 1,
) -> Array:
    """Fill in missing pixels with those of the most probable latents.

    For each image this is the mode of the posterior of ``z`` in :func:`inpainting_model`, as far as
    Adam finds it. Each chain starts at the latents of a sample with the observed pixels pasted in,
    and of all iterates of all chains the best one counts. On the way the noise falls to
    ``noise_scale`` from ten times that, since the narrower the valley in which the observed pixels
    hold Adam, the slower it moves along. The mode is one plausible completion, with little texture;
    for their variety, sample the model. Derivatives are those of the mode, by the implicit function
    theorem, with respect to the flow, the observed pixels and the noise; in reverse mode, and as
    exact as Adam's result is.

    Args:
      key: PRNG key, for where the chains start.
      flow: the density of images.
      observed: images, ``(*batch, *event_shape)``. What missing pixels hold does not matter, and
        may be NaN.
      mask: boolean, True where a pixel was observed; broadcasts with ``observed``.
      noise_scale: standard deviation of the noise of observed pixels, a number or an array that
        broadcasts with the images.
      num_steps: steps of Adam.
      learning_rate: of the first step; it falls to zero along a cosine.
      num_chains: chains for each image. All are run at once.

    Returns:
      Images, ``(*batch, *event_shape)``, whose observed pixels are exactly those given. Missing
      pixels are NaN where no iterate has a finite density.

    Raises:
      TypeError: for a key that is not a key; otherwise as :func:`inpainting_model`.
      ValueError: if a number is out of range; otherwise as :func:`inpainting_model`.

    >>> from flowdists.images import inpaint
    >>> flow = Flow(StandardNormal((2, 2, 1)), Reverse((2, 2, 1)))
    >>> observed, mask = jnp.ones((5, 2, 2, 1)), jnp.array([[[True], [True]], [[False], [False]]])
    >>> images = inpaint(jax.random.key(0), flow, observed, mask)
    >>> print(abs(images[0, ..., 0]).round(2))
    [[1. 1.]
     [0. 0.]]
    """
    caller = "inpaint"
    key = _check.key(caller, key)
    flow, observed, mask = _as_observed(caller, flow, observed, mask)
    _check_scale(caller, noise_scale)
    num_steps = _check.positive_int(caller, "num_steps", num_steps)
    num_chains = _check.positive_int(caller, "num_chains", num_chains)
    if not isinstance(learning_rate, jax.core.Tracer):
        learning_rate = _check.positive(caller, "learning_rate", learning_rate)
    posterior = Posterior(flow, observed, mask, jnp.asarray(noise_scale, observed.dtype))
    z = find_mode(
        key, posterior, learning_rate=learning_rate, num_steps=num_steps, num_chains=num_chains
    )
    return jnp.where(mask, observed, flow.bijector(z))


def _as_observed(caller: str, flow: Any, observed: Any, mask: Any) -> tuple[Flow, Array, Array]:
    """The checked arguments, of one shape; missing pixels are zero."""
    flow = as_flow(caller, flow)
    observed = _check.float_array(caller, "observed", observed)
    _check.event_shape(caller, "observed", observed.shape, flow.event_shape, flow.event_dim)
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"{caller}: `mask` must be boolean, got {mask.dtype}")
    what = "the shapes of `observed` and `mask`"
    shape = broadcast(caller, what, observed.shape, mask.shape)
    _check.event_shape(caller, "mask", shape, flow.event_shape, flow.event_dim)
    what = "the batch shapes of the images and of `flow`"
    broadcast(caller, what, shape[: len(shape) - flow.event_dim], flow.batch_shape)
    # A NaN would reach gradients even where its own term of the density is masked.
    observed = jnp.where(mask, observed, 0.0)
    check.pixels(caller, "observed", observed)
    return flow, observed, jnp.broadcast_to(mask, shape)


def _check_scale(caller: str, noise_scale: Any) -> None:
    known = not isinstance(noise_scale, jax.core.Tracer)
    if known and not (np.asarray(noise_scale) > 0).all():
        raise ValueError(f"{caller}: `noise_scale` must be positive, got {noise_scale}")
