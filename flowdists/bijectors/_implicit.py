from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowdists.bijectors._sweep import Stage, sweep
from flowdists.networks._levels import Architecture
from flowdists.networks.base import resolve_activation
from flowdists.networks.made import Layers, evaluate

Array = jax.Array


def density(architecture, transformer, layers, x):
    z, log_slope = transformer.inverse(x, evaluate(architecture, layers, x))
    return z, log_slope.sum(0)


def _params_last(arch, v):
    """(P*D, ...) -> (D*P, ...)."""
    p, d = arch.num_params, arch.event_size
    return v.reshape(p, d, *v.shape[1:]).swapaxes(0, 1).reshape(p * d, *v.shape[1:])


def stages_of(arch, weights):
    *hidden, last = weights
    weights = (*hidden, _params_last(arch, last))
    rows = (*arch.unit_sizes[1:], arch.num_params * arch.input_sizes)
    return [Stage(w, r, c) for w, r, c in zip(weights, rows, arch.unit_sizes, strict=True)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def sample(arch, transformer, layers, z):
    activation = resolve_activation(arch.activation)
    *offs, last = layers.offsets
    offsets = (*offs, _params_last(arch, last))
    stages = stages_of(arch, layers.weights)
    inputs = {"z": z, "offsets": offsets, "gates": layers.gates}
    sizes = {"z": arch.input_sizes, "offsets": tuple(s.row_sizes for s in stages), "gates": (arch.unit_sizes[1],)*len(layers.gates)}

    def body(read, write, at):
        def linear(k, h):
            if k:
                write(k, h)
            return read(k) + at["offsets"][k]
        params = arch.run(linear, lambda k, h: activation(h), lambda b, h: h * at["gates"][b] if at["gates"] else h, at["z"])
        params = params.reshape(-1, arch.num_params, *params.shape[1:]).swapaxes(0, 1)
        x, ls = transformer.forward(at["z"], params)
        write(0, x)
        return x, ls
    x, ls = sweep(stages, inputs, sizes, body, z.shape[1:], z.dtype)
    return x, ls.sum(0)
