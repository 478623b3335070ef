"""All that the mathematical tests ask about a bijector of the table, by one compiled program.

Compiling is nearly all of the time of such tests. One program for each entry returns values, both
log-determinants, the Jacobian by automatic differentiation, slopes along a random direction and
what finite differences need; the tests then assert on NumPy arrays.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

from tests import table
from tests.draws import normal
from tests.precision import double_precision

NUM_POINTS = 4
BATCH_SHAPE = (2, NUM_POINTS)  # central points, then tail points
STEPS = (0.0, 5e-8, -5e-8, 1e-7, -1e-7)  # along the random direction

Tree = Any


class Evaluation(NamedTuple):
    """Everything in float64, for inputs of shape ``(*BATCH_SHAPE, *event_shape)``.

    Attributes:
      layer: the entry's bijector.
      x: inputs of ``forward``.
      singly: for each point alone: ``y``, ``log_det``, ``back``, ``inverse_log_det``, and the
        ``jacobian`` of ``forward``, a matrix. Shape ``(8, ...)``.
      batched: the same, but for the Jacobian, for all points in one call.
      broadcast: the same with contexts of shape ``(4, ...)``; None for a layer without context.
      loss: for each direction, a scalar function of outputs and log-determinants at ``STEPS``.
      slope: its derivative by automatic differentiation along the same direction.
      has_effect: ``(layer, x)``, and the context if there is one, with whether the loss of
        ``forward`` depends on each element.
    """

    layer: Any
    x: np.ndarray
    singly: dict[str, np.ndarray]
    batched: dict[str, np.ndarray]
    broadcast: dict[str, np.ndarray] | None
    loss: dict[str, np.ndarray]
    slope: dict[str, np.ndarray]
    has_effect: Tree


def event_shape(layer) -> tuple[int, ...]:
    """The layer's event shape, or one that fits where any will do."""
    shape = layer.event_shape
    return (3,) * layer.event_ndims_in if shape is None else shape


def free_inputs(layer) -> jax.Array:
    """Unconstrained points, of shape ``BATCH_SHAPE``: central ones, then tail ones."""
    shape = (NUM_POINTS, *event_shape(layer))
    tails = normal(1, shape, scale=10.0)
    if layer.event_shape is None:
        tails = jnp.clip(tails, -10, 10)  # beyond, NumPyro's sigmoid has lost the digits asked for
    return jnp.stack([normal(0, shape), tails])


def contexts(layer) -> jax.Array | None:
    """A context for each central point, and for the tail point of the same index."""
    shape = layer.context_shape
    return None if shape is None else normal(2, (NUM_POINTS, *shape))


def inputs(layer, free: jax.Array) -> jax.Array:
    """Points of the layer's domain."""
    return free if layer.domain == constraints.real else biject_to(layer.domain)(free)


def _one_point(layer, x, context) -> dict[str, jax.Array]:
    def forward(x):
        y, log_det = layer.forward_and_log_det(x, context)
        return y.reshape(-1), (y, log_det)

    jacobian, (y, log_det) = jax.jacfwd(forward, has_aux=True)(x)
    back, inverse_log_det = layer.inverse_and_log_det(y, context)
    return {
        "y": y,
        "log_det": log_det,
        "back": back,
        "inverse_log_det": inverse_log_det,
        "jacobian": jacobian.reshape(-1, math.prod(x.shape)),
    }


def _both_ways(layer, x, context) -> dict[str, jax.Array]:
    y, log_det = layer.forward_and_log_det(x, context)
    back, inverse_log_det = layer.inverse_and_log_det(y, context)
    return {"y": y, "log_det": log_det, "back": back, "inverse_log_det": inverse_log_det}


def _along(direction: str, primals: Tree, tangents: Tree):
    """Loss, slope, outputs and gradient at ``STEPS`` from ``(layer, value, context)``."""

    def loss(layer, value, context):
        out, log_det = getattr(layer, f"{direction}_and_log_det")(value, context)
        return jnp.sum(jnp.sin(out[0])) + log_det[0].sum(), (out, log_det)

    given = (0, 1) if primals[2] is None else (0, 1, 2)
    value_and_grad = jax.value_and_grad(loss, argnums=given, has_aux=True)

    def at(step):
        moved = jax.tree.map(lambda p, t: p + step * t, primals, tangents)
        (total, outputs), gradient = value_and_grad(*moved)
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(tangents), strict=True)
        return total, sum(jnp.vdot(g, t) for g, t in pairs), outputs, gradient

    return jax.lax.map(at, jnp.array(STEPS))


@jax.jit
def _evaluate(layer, free, context, tangents):
    x = inputs(layer, free)
    full = jax.tree.map(lambda c: jnp.broadcast_to(c, (BATCH_SHAPE[0], *c.shape)), context)
    points = jax.tree.map(lambda a: a.reshape(-1, *a.shape[len(BATCH_SHAPE) :]), (x, full))
    singly = jax.lax.map(lambda point: _one_point(layer, *point), points)
    layer_t, x_t, y_t, context_t = tangents
    loss, slope, forward, gradient = _along("forward", (layer, x, full), (layer_t, x_t, context_t))
    y, log_det = (out[0] for out in forward)  # at a step of zero
    inverse_loss, inverse_slope, inverse, _ = _along(
        "inverse", (layer, y, full), (layer_t, y_t, context_t)
    )
    back, inverse_log_det = (out[0] for out in inverse)
    return {
        "x": x,
        "singly": singly,
        "batched": {"y": y, "log_det": log_det, "back": back, "inverse_log_det": inverse_log_det},
        "broadcast": None if context is None else _both_ways(layer, x, context),
        "loss": {"forward": loss, "inverse": inverse_loss},
        "slope": {"forward": slope[0], "inverse": inverse_slope[0]},
        "has_effect": jax.tree.map(lambda g: g[0] != 0, gradient),
    }


def _tangents(layer, free, context):
    """A random direction for the layer's parameters, its inputs, its outputs and the context."""
    out = jax.eval_shape(lambda v: layer.forward_and_log_det(v, context)[0], free)
    full = None if context is None else jnp.zeros((*BATCH_SHAPE, *layer.context_shape))
    zeros = jax.tree.map(np.zeros_like, (layer, free, jnp.zeros(out.shape), full))
    return table.perturb(jax.random.key(0), zeros, 1.0)


@functools.cache
def evaluation(name: str) -> Evaluation:
    """The entry ``name`` evaluated, once for all tests."""
    with double_precision():
        layer = table.build(name)
        free = free_inputs(layer)
        context = contexts(layer)
        results = _evaluate(layer, free, context, _tangents(layer, free, context))
        return Evaluation(layer=layer, **jax.device_get(results))
