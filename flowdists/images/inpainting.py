"""Missing pixels, inferred from the observed ones."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro

from flowdists import _check
from flowdists._pytree import is_traced
from flowdists.bijectors.base import Array
from flowdists.flow import Flow
from flowdists.images import check
from flowdists.images.latents import as_flow
from flowdists.images.posterior_mode import Posterior, find_mode


def inpainting_model(flow: Flow, observed: Any, mask: Any, noise_scale: Any = 0.05) -> Array:
    r"""A NumPyro model of images with some observed pixels, which have noise.

    .. math:: z \sim p_z, \qquad x = f(z), \qquad
        \mathrm{observed}_i \sim N(x_i, \sigma) \quad \text{for } i \text{ in the mask}

    The latent site ``z`` is a value of the flow's base for each image. The site ``x``, the images,
    is deterministic. The model is for MCMC, and for SVI with any guide. The posterior of ``x``
    shows what the missing pixels may be. Smaller noise makes the posterior harder to sample.

    Args:
      flow: the density of images.
      observed: images, ``(*batch, *event_shape)``. Missing pixels may hold any value, also NaN.
      mask: boolean, True where a pixel was observed. It broadcasts with ``observed``; for example,
        the shape ``(H, W, 1)`` gives one mask for all images and channels.
      noise_scale: standard deviation of the noise, a number or an array that broadcasts with the
        images.

    Returns:
      The images ``x``, ``(*batch, *event_shape)``.

    Raises:
      TypeError: if ``flow`` is not a Flow, ``observed`` is not floating point, or ``mask`` is not
        boolean.
      ValueError: if shapes do not fit; if the noise is known and not positive; or if observed
        pixels are known to hold NaN or levels 0 to 255 cast to floats.

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
    posterior = _posterior(caller, flow, observed, mask, noise_scale)
    # Without a plate, batch axes belong to the event.
    prior = posterior.base.to_event(len(posterior.base.batch_shape))
    x = numpyro.deterministic("x", flow.bijector(numpyro.sample("z", prior)))
    likelihood = posterior.likelihood(x)
    likelihood = likelihood.to_event(len(likelihood.batch_shape))
    numpyro.sample("observed", likelihood, obs=posterior.observed)
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

    For each image Adam looks for the mode of the posterior of ``z`` in :func:`inpainting_model`.
    Each chain starts at the latents of a sample with the observed pixels pasted in. The result is
    the best of all iterates of all chains. The noise starts at ten times ``noise_scale`` and falls
    to it, because little noise makes a narrow valley, along which Adam moves slowly. The mode is
    one plausible completion, with little texture; to see how completions vary, sample the model.

    Derivatives with respect to the flow, the observed pixels and the noise are those of the mode,
    by the implicit function theorem. They exist in reverse mode, and are as exact as the mode that
    Adam found.

    Args:
      key: PRNG key for the starts of the chains.
      flow: the density of images.
      observed: images, ``(*batch, *event_shape)``. Missing pixels may hold any value, also NaN.
      mask: boolean, True where a pixel was observed; it broadcasts with ``observed``.
      noise_scale: standard deviation of the noise of observed pixels, a number or an array that
        broadcasts with the images.
      num_steps: steps of Adam.
      learning_rate: the rate of the first step; it falls to zero along a cosine.
      num_chains: chains for each image. They all run at the same time.

    Returns:
      Images, ``(*batch, *event_shape)``, whose observed pixels are exactly those given. The missing
      pixels of an image are NaN if no iterate had a finite density.

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
    posterior = _posterior(caller, flow, observed, mask, noise_scale)
    num_steps = _check.positive_int(caller, "num_steps", num_steps)
    num_chains = _check.positive_int(caller, "num_chains", num_chains)
    if not is_traced(learning_rate):
        learning_rate = _check.positive(caller, "learning_rate", learning_rate)
    z = find_mode(
        key, posterior, learning_rate=learning_rate, num_steps=num_steps, num_chains=num_chains
    )
    return jnp.where(posterior.mask, posterior.observed, flow.bijector(z))


def _posterior(caller: str, flow: Any, observed: Any, mask: Any, noise_scale: Any) -> Posterior:
    """The checked arguments, of one shape; missing pixels are zero."""
    flow = as_flow(caller, flow)
    observed = check.events(caller, "observed", observed, flow.event_shape)
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"{caller}: `mask` must be boolean, got {mask.dtype}")
    what = "the shapes of `observed` and `mask`"
    shape = check.broadcast(caller, what, observed.shape, mask.shape)
    _check.event_shape(caller, "mask", shape, flow.event_shape, flow.event_dim)
    what = "the batch shapes of the images and of `flow`"
    check.broadcast(caller, what, shape[: len(shape) - flow.event_dim], flow.batch_shape)
    if not is_traced(noise_scale) and not (np.asarray(noise_scale) > 0).all():
        raise ValueError(f"{caller}: `noise_scale` must be positive, got {noise_scale}")
    # A NaN would reach gradients even where its own term of the density is masked.
    observed = check.pixels(caller, "observed", jnp.where(mask, observed, 0.0))
    noise_scale = jnp.asarray(noise_scale, observed.dtype)
    return Posterior(flow, observed, jnp.broadcast_to(mask, shape), noise_scale)
