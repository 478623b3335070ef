"""Neural transport: NUTS in the base space of a trained guide."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import numpyro.infer.reparam

from flowdists._model_sites import latent_sites, plate_sizes
from flowdists.guides.replay import constrain

Array = jax.Array


class NeuTraReparam(numpyro.infer.reparam.NeuTraReparam):
    """NumPyro's neural transport, with one evaluation of the flow.

    NUTS samples a shared latent vector that follows the guide's base distribution. The guide's
    transform turns it into the latent variables of the model (Hoffman et al. 2019,
    https://arxiv.org/abs/1903.03704). NumPyro's own class evaluates the transform once for the
    value and again for the log-determinant. This class does both at once, for any guide with a
    ``get_transform``.

    Args:
      guide: a trained :class:`numpyro.infer.autoguide.AutoContinuous`, such as
        :class:`~flowdists.AutoFlow`.
      params: its parameters.

    Raises:
      TypeError: if ``guide`` is another kind of guide.
      ValueError: if ``guide`` has no transform.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    ...     numpyro.sample("y", dist.Normal(x**2, 0.5))
    >>> guide = AutoFlow(model, MAF, num_layers=1, hidden_sizes=(8,))
    >>> params, _ = fit_guide(jax.random.key(0), guide, num_steps=50, progress=False)
    >>> neutra = NeuTraReparam(guide, params)
    >>> kernel = numpyro.infer.NUTS(neutra.reparam(model))
    >>> mcmc = numpyro.infer.MCMC(kernel, num_warmup=20, num_samples=20, progress_bar=False)
    >>> mcmc.run(jax.random.key(1))
    >>> draws = neutra.transform_sample(mcmc.get_samples()["auto_shared_latent"])
    >>> sorted(draws), draws["x"].shape
    (['x', 'y'], (20,))
    """

    def __call__(self, name: str, fn: Any, obs: Any) -> tuple[Any, Any]:
        """Replace the latent site ``name`` by its part of the shared latent vector."""
        if name not in self.guide.prototype_trace:
            return fn, obs
        if obs is not None:
            raise ValueError(
                f"NeuTraReparam: the site {name!r} is observed, but was latent to the guide"
            )
        if name == next(iter(latent_sites(self.guide.prototype_trace))):
            # The first site draws the vector for all sites.
            self._x_unconstrained = self._draw_shared()
        value, log_det = constrain(fn, self._x_unconstrained.pop(name))
        if log_det is not None:
            numpyro.factor(f"_{name}_log_prob", fn.log_prob(value) + log_det)
        return None, value

    def _draw_shared(self) -> dict[str, Array]:
        """Draw the shared vector, add the log-determinant to the model, return values by site."""
        # The vector belongs to no plate, even if the first site is inside one.
        infer = {"block_plates": set(plate_sizes(self.guide.prototype_trace))}
        prefix = self.guide.prefix
        base = self.guide.get_base_dist()
        z = numpyro.sample(f"{prefix}_shared_latent", base.mask(False), infer=infer)
        x, intermediates = self.transform.call_with_intermediates(z)
        if numpyro.get_mask() is not False:
            log_det = self.transform.log_abs_det_jacobian(z, x, intermediates)
            numpyro.sample(
                f"_{prefix}_shared_log_det", dist.Unit(log_det), obs=jnp.empty(0), infer=infer
            )
        return self.guide._unpack_latent(x)
