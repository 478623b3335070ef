"""Training a guide with defaults that need no tuning."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoGuide

from flowdists import _check
from flowdists.guides.autoflow import AutoFlow
from flowdists.training.epoch import all_finite
from flowdists.training.optimizer import make_optimizer
from flowdists.training.result import NonFiniteLossError, progress_bar

Array = jax.Array

NUM_CHUNKS = 50
"""A fit is divided into this many chunks of steps; the parameters are evaluated after each."""

NOISE = 3.0
"""A loss counts as equal to the best if it is at most this many standard errors above it."""

MAX_SKIPPED = 0.5
"""The largest fraction of a chunk's steps that may be skipped, because they are not finite."""


class GuideFit(NamedTuple):
    """The parameters of a trained guide, and the losses of its training.

    Attributes:
      params: the best parameters, by name, for the guide's ``sample_posterior`` and
        ``get_posterior`` and NumPyro's ``Predictive``.
      losses: the loss of every step, ``(num_steps,)``: minus an estimate of the ELBO, in nats. NaN
        where the step was skipped, because its loss or gradient was not finite.
    """

    params: dict[str, Any]
    losses: np.ndarray


def fit_guide(
    key: Array,
    guide: Any,
    *args: Any,
    model: Callable[..., Any] | None = None,
    loss: Any = None,
    num_steps: int = 5000,
    learning_rate: float = 5e-3,
    optimizer: Any = None,
    clip_norm: float | None = 10.0,
    init_params: dict[str, Any] | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> GuideFit:
    """Train ``guide`` by stochastic variational inference, with :class:`numpyro.infer.SVI`.

    The defaults are meant for :class:`~flowdists.AutoFlow`: Adam with clipped gradients, a learning
    rate that warms up and falls to zero, and 16 particles. With the default loss, gradients are
    path derivatives, which are less noisy. The parameters with the best loss are returned, also
    after Ctrl-C. A loss here is the median over a fiftieth of the steps; among losses that differ
    only by noise, the latest is the best.

    The path derivative needs an inverse of the flow at every step. For a flow that is slow to
    invert, such as :class:`~flowdists.IAF`, turn it off with ``loss=Trace_ELBO(num_particles=16)``.

    A step whose loss or gradient is not finite is skipped: one draw among many may lie where the
    model overflows. A warning says how many steps were skipped. If more than half of the steps in a
    fiftieth of the training are not finite, this is an error.

    Args:
      key: PRNG key.
      guide: a NumPyro guide.
      *args: the model's arguments. JAX arrays are traced, so that they are not copied into the
        program. If the model needs the values themselves, give a NumPy array or a number.
      model: the model; by default the automatic guide's own.
      loss: a NumPyro ELBO; by default ``Trace_ELBO(num_particles=16)`` with the path derivative.
      num_steps: the number of steps.
      learning_rate: the peak learning rate of the default optimizer.
      optimizer: an optax optimizer, to use in place of the default one.
      clip_norm: the largest global norm of a gradient; None for no limit.
      init_params: initial values of parameters, by name. Parameters that are not in it start as
        they do by default.
      progress: whether to show a progress bar.
      **kwargs: the model's keyword arguments.

    Returns:
      The parameters and the losses.

    Raises:
      NonFiniteLossError: if more than half of the losses and gradients in a fiftieth of the steps,
        or a parameter, are NaN or infinite. Its ``result`` holds the best parameters before that.
      TypeError: if there is no model, or an argument has the wrong type.
      ValueError: if a number is out of range, or ``init_params`` has a name that no parameter has.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     numpyro.sample("x", dist.Gamma(3.0, 1.0))
    >>> guide = AutoFlow(model, MAF, num_layers=1, hidden_sizes=(8,))
    >>> params, losses = fit_guide(jax.random.key(0), guide, num_steps=100, progress=False)
    >>> losses.shape
    (100,)
    """
    key = _check.key("fit_guide", key)
    _check.positive_int("fit_guide", "num_steps", num_steps)
    if model is None:
        if not isinstance(guide, AutoGuide):
            raise TypeError("fit_guide: `model` is needed: `guide` is not an automatic guide")
        model = guide.model
    optimizer = make_optimizer("fit_guide", optimizer, learning_rate, num_steps, clip_norm)
    svi = SVI(model, guide, optimizer, Trace_ELBO(num_particles=16) if loss is None else loss)
    state = svi.init(key, *args, init_params=init_params, **kwargs)
    if loss is None and isinstance(guide, AutoFlow):
        svi.guide = guide.with_path_derivative()
    best = _Best(svi.get_params(state))
    unknown = sorted(set(init_params or ()) - set(best.params))
    if unknown:
        raise ValueError(
            f"fit_guide: `init_params` must have names of parameters, got {unknown}; there are "
            f"{sorted(best.params)}"
        )
    try:
        with progress_bar(num_steps, progress, unit="step") as bar:
            _optimize(svi, state, best, num_steps, bar, args, kwargs)
    except KeyboardInterrupt:
        _warn(
            f"interrupted after {len(best.result().losses)} of {num_steps} steps; the best "
            "parameters so far are returned"
        )
    result = best.result()
    num_skipped = int(np.isnan(result.losses).sum())
    if num_skipped:
        _warn(
            f"{num_skipped} of {len(result.losses)} steps were skipped, because their loss or "
            "gradient was not finite: some draws lie where the model's density is not finite"
        )
    return result


def _warn(message: str) -> None:
    warnings.warn(f"fit_guide: {message}", RuntimeWarning, stacklevel=3)  # at the call of fit_guide


class _Best:
    """The best parameters so far, and the losses of all steps.

    Args:
      params: the parameters before the first step.
    """

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.loss = self._error = math.inf
        self._losses: list[np.ndarray] = []

    def record(self, losses: np.ndarray) -> None:
        """Add the losses of a chunk."""
        self._losses.append(losses)

    def judge(self, losses: np.ndarray, params: dict[str, Any]) -> float:
        """Keep the parameters if the chunk before them was good; return the median loss.

        Args:
          losses: the finite losses of the chunk.
          params: the parameters after it.
        """
        # The median, because estimates of an ELBO have outliers.
        low, median, high = (float(q) for q in np.quantile(losses, (0.25, 0.5, 0.75)))
        if median < self.loss:
            self.loss, self._error = median, (high - low) / math.sqrt(len(losses))
        # The lowest of many noisy losses is low by chance. Without this tolerance it would often
        # pick parameters from before the learning rate has fallen.
        if median <= self.loss + NOISE * self._error:
            self.params = params
        return median

    def result(self) -> GuideFit:
        """The best parameters, and all losses."""
        return GuideFit(self.params, np.concatenate([np.empty(0), *self._losses]))


def _optimize(
    svi: SVI,
    state: Any,
    best: _Best,
    num_steps: int,
    bar: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Run all steps, a chunk at a time, and evaluate the parameters after each chunk."""
    size = math.ceil(num_steps / NUM_CHUNKS)
    run = _compiled_chunk(svi, num_steps, size, args, kwargs)
    for first in range(0, num_steps, size):
        count = min(size, num_steps - first)
        state, chunk_losses, finite = run(state, first)
        losses = np.asarray(chunk_losses[:count])
        best.record(losses)
        good = losses[np.isfinite(losses)]
        num_bad = count - len(good)
        if num_bad > MAX_SKIPPED * count or not finite:
            what = f"{num_bad} of {count} losses or gradients are" if finite else "a parameter is"
            raise NonFiniteLossError(
                f"fit_guide: {what} not finite within steps {first} to {first + count - 1}; "
                "the best parameters before that are in this error's `result`",
                best.result(),
            )
        median = best.judge(good, svi.get_params(state))
        bar.set_postfix({"loss": f"{median:.4f}", "best": f"{best.loss:.4f}"}, refresh=False)
        bar.update(count)


def _compiled_chunk(
    svi: SVI, num_steps: int, size: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[Any, int], tuple[Any, Array, Array]]:
    """A function of the state of SVI and the number of a step that runs the next ``size`` steps.

    It returns the new state, the losses, and whether all parameters are finite.
    """
    # JAX arrays may be large, so they are arguments of the program. A model may need the values of
    # everything else, so these are part of the program.
    leaves, structure = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}

    @jax.jit
    def run(state: Any, first: int, arrays: dict[int, Array]) -> tuple[Any, Array, Array]:
        given = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(structure, given)

        def update(state: Any) -> tuple[Any, Array]:
            state, loss = svi.stable_update(state, *args, **kwargs)
            return state, loss.astype(float)

        def step(state: Any, index: Array) -> tuple[Any, Array]:
            return jax.lax.cond(index < num_steps, update, lambda s: (s, jnp.zeros(())), state)

        state, losses = jax.lax.scan(step, state, first + jnp.arange(size))
        return state, losses, all_finite(svi.get_params(state))

    return lambda state, first: run(state, first, arrays)
