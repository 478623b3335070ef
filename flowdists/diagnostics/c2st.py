"""The classifier two-sample test."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists import _check
from flowdists.diagnostics._two_sets import two_sets

Array = jax.Array


def c2st(
    key: Array,
    x: Any,
    y: Any,
    *,
    num_folds: int = 5,
    max_iter: int = 10_000,
    max_draws: int | None = None,
) -> float:
    r"""Accuracy of a classifier two-sample test: 0.5 for equal distributions, 1 for separate ones.

    The classifier two-sample test (C2ST; Friedman 2003, "On multivariate goodness-of-fit and
    two-sample testing"; Lopez-Paz and Oquab 2017, https://arxiv.org/abs/1610.06545) trains a
    network to tell the two sets apart, and returns its mean accuracy over the held-out folds of a
    cross-validation.

    The settings are those of the benchmark of Lueckmann, Boelts, Greenberg, Gonçalves and Macke
    2021, https://arxiv.org/abs/2101.04653: two hidden layers of ten ReLU units for each dimension,
    trained by Adam until the loss stalls, in single precision. The draws are standardized by the
    mean and the standard deviation of the first set. For values that compare with the benchmark,
    give the reference posterior as ``x``, and 10,000 draws of each.

    The accuracy estimates a lower bound of :math:`(1 + TV) / 2`, where TV is the total variation
    distance. Between equal distributions its standard error is about :math:`1 / (2 \sqrt{2 n})` for
    n draws of each.

    It needs scikit-learn, which ``pip install flowdists[examples]`` installs.

    Args:
      key: PRNG key, for the folds, the initial network and its minibatches.
      x: draws of the reference, ``(n, *event_shape)``.
      y: draws to compare with it, ``(n, *event_shape)``.
      num_folds: number of folds, at least 2.
      max_iter: how many epochs to train for at most.
      max_draws: how many draws of each set to use at most, chosen at random.

    Returns:
      The accuracy, from 0 to 1.

    Raises:
      ImportError: without scikit-learn.
      TypeError: for arguments of the wrong kind.
      ValueError: if shapes do not fit, values are not finite, an element of ``x`` is constant, or
        the sets differ in size, where guessing the larger one would score above 0.5.

    >>> from flowdists.diagnostics import c2st
    >>> x = jax.random.normal(jax.random.key(0), (100, 2))
    >>> c2st(jax.random.key(1), x, x + 9.0)
    1.0
    """
    caller = "c2st"
    key = _check.key(caller, key)
    num_folds = _check.positive_int(caller, "num_folds", num_folds, minimum=2)
    max_iter = _check.positive_int(caller, "max_iter", max_iter)
    x, y = two_sets(caller, x, y, min_draws=num_folds)
    if max_draws is not None:
        max_draws = _check.positive_int(caller, "max_draws", max_draws, minimum=num_folds)
        key, *keys = jax.random.split(key, 3)
        x, y = _choose(keys[0], x, max_draws), _choose(keys[1], y, max_draws)
    if len(x) != len(y):
        raise ValueError(
            f"{caller}: `x` and `y` must be sets of equal size, got {len(x)} and {len(y)} draws; "
            "`max_draws` makes both as small"
        )
    try:
        from sklearn.model_selection import KFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise ImportError(
            f"{caller} needs scikit-learn: `pip install scikit-learn`, or flowdists[examples]"
        ) from error
    data = np.concatenate(_standardize(caller, np.asarray(x), np.asarray(y)))
    labels = np.repeat([0, 1], len(x))
    fold_seed, network_seed = (int(bits) for bits in jax.random.bits(key, (2,), jnp.uint32))
    width = 10 * data.shape[1]
    network = MLPClassifier(
        activation="relu",
        hidden_layer_sizes=(width, width),
        max_iter=max_iter,
        solver="adam",
        random_state=network_seed,
    )
    folds = KFold(num_folds, shuffle=True, random_state=fold_seed)
    return float(cross_val_score(network, data, labels, cv=folds, scoring="accuracy").mean())


def _choose(key: Array, draws: Array, most: int) -> Array:
    return draws if len(draws) <= most else jax.random.choice(key, draws, (most,), replace=False)


def _standardize(caller: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets on the scale of the first."""
    loc = x.mean(axis=0, dtype=np.float64)
    scale = x.std(axis=0, dtype=np.float64, ddof=1)
    if not (scale > 0).all():
        raise ValueError(
            f"{caller}: `x` must vary in every element, got a constant one at index "
            f"{int((scale > 0).argmin())}"
        )
    return ((x - loc) / scale).astype(np.float32), ((y - loc) / scale).astype(np.float32)
