"""Transformers and their derivatives, in one program for each configuration, shape and dtype."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.partial(jax.jit, static_argnums=(0, 1))
def _values_and_gradients(transformer, direction, x, params):
    values, pullback = jax.vjp(getattr(transformer, direction), x, params)
    one, zero = jnp.ones_like(values[0]), jnp.zeros_like(values[0])
    return values, pullback((one, zero)), pullback((zero, one))


def values_and_gradients(transformer, direction, x, params):
    """Result and log-slope; derivatives of the one and of the other, by ``(x, params)``."""
    return jax.tree.map(np.asarray, _values_and_gradients(transformer, direction, x, params))


def evaluate(transformer, direction, x, params):
    """Result and log-slope."""
    return values_and_gradients(transformer, direction, x, params)[0]
