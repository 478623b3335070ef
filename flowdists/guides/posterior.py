"""The density of an amortized guide: a flow of global variables, and one for each datum."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro

from flowdists import transformers
from flowdists._model_sites import Values
from flowdists._pytree import is_float_array
from flowdists.bijectors import Affine, Bijector, Chain, ContextElementwise
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.guides.flow_argument import FlowArgument
from flowdists.guides.layout import Layout
from flowdists.guides.module import built, flow_module

Array = jax.Array

_MEANING = (
    "an event is the unconstrained latent variables of one datum, or the global ones; a context is "
    "the encoder's output, followed by the global latent variables where the flow sees them"
)


class AmortizedPosterior(NamedTuple):
    """The networks of an amortized guide, and the draws from them.

    Attributes:
      caller: the name of the guide, for error messages.
      prefix: the prefix of the names of the sample sites.
      encoder: the network, which takes one row of the features.
      local_flow: the flow of a datum's latent variables. Its last layer is a shift and scale.
      global_flow: the flow of the global latent variables, with the same kind of last layer; None
        if the model has none.
      sees_global: whether the context of the local flow contains the global latent variables.
    """

    caller: str
    prefix: str
    encoder: Any
    local_flow: ConditionalFlow
    global_flow: Flow | None
    sees_global: bool

    def context(self, rows: Array, global_latent: Array | None) -> Array:
        """The context of the local flow.

        Args:
          rows: features, ``(rows, ...)``.
          global_latent: the global latent variables, unconstrained, ``(*batch, size)``.

        Returns:
          ``(*batch, context_size)``, where ``batch`` is broadcast with ``(rows,)``.
        """
        # The output of a new network is often zero. Where it is the only input of the local flow,
        # neither the network nor the flow would then ever get a gradient.
        context = 1.0 + encode(self.caller, self.encoder, rows)
        if not self.sees_global or self.global_flow is None:
            return context
        # In the units of the last layer, which follow the posterior as it gets narrower.
        units = self.global_flow.bijector.layers[-1]
        standardized = units.inverse(global_latent)
        batch = jnp.broadcast_shapes(context.shape[:-1], standardized.shape[:-1])
        parts = [jnp.broadcast_to(x, (*batch, x.shape[-1])) for x in (context, standardized)]
        return jnp.concatenate(parts, axis=-1)

    def draw(
        self, layout: Layout, rows: Array, whole: bool = False
    ) -> tuple[Values, numpyro.plate, Array]:
        """Draw the latent variables, at auxiliary sample sites.

        Args:
          layout: the layout of the model.
          rows: the features of all data, or of the subsample.
          whole: whether to draw for all data that have features, not for a subsample.

        Returns:
          The unconstrained values by site, the plate of the data, and the indices of its elements.

        Raises:
          ValueError: if there are too few or too many rows.
        """
        infer = {"is_auxiliary": True}
        theta, values = None, {}
        if self.global_flow is not None:
            theta = numpyro.sample(f"_{self.prefix}_global_latent", self.global_flow, infer=infer)
            values = layout.outside.unpack(theta)
        has_all = len(rows) == layout.size
        num = None if whole and has_all else layout.subsample_size
        plate = numpyro.plate(layout.plate, layout.size, num, dim=layout.dim)
        with plate as indices:
            if has_all:
                rows = rows[indices]
            elif len(rows) != len(indices):
                raise ValueError(
                    f"{self.caller}: `features` must give a row for each datum of the plate "
                    f"{layout.plate!r}, {layout.size}, or of the subsample, {len(indices)}; got "
                    f"{len(rows)} rows"
                )
            context = self.context(rows, theta)
            # There are -1 - dim batch dimensions right of this plate, for other plates.
            context = context.reshape(len(indices), *(1,) * (-1 - layout.dim), -1)
            flow = self.local_flow.condition(context)
            z = numpyro.sample(f"_{self.prefix}_local_latent", flow, infer=infer)
        values |= layout.unpack_locals(z.reshape(len(indices), layout.inside.size))
        return values, plate, indices


class FlowStart(NamedTuple):
    """A flow of an amortized guide, and the Gaussian around which it starts.

    Attributes:
      argument: the flow that the user gave.
      loc: the mean of the Gaussian, unconstrained, ``(size,)``.
      scale: its standard deviation, the same for every dimension.
    """

    argument: FlowArgument
    loc: Array
    scale: float

    def module(self, prefix: str, *between: Bijector, **shapes: Any) -> Any:
        """The flow followed by a shift and scale, with parameters as ``numpyro.param`` sites.

        Args:
          prefix: the prefix of the sites' names.
          *between: layers between the two.
          **shapes: shapes for the recipe, such as ``context_shape``.
        """
        make = self.argument.resolve(self.loc.shape, _MEANING, **shapes)
        flow = flow_module(f"{prefix}_flow", make)
        initial = Affine(self.loc, jnp.full(self.loc.shape, self.scale))
        affine = flow_module(f"{prefix}_affine", initial)
        return flow.replace(bijector=Chain([flow.bijector, *between, affine]))


def posterior_module(
    caller: str,
    prefix: str,
    encoder: Any,
    code_size: int,
    local_start: FlowStart,
    global_start: FlowStart | None,
    condition_on_global: bool,
) -> AmortizedPosterior:
    """The posterior of an amortized guide, with parameters as ``numpyro.param`` sites.

    Args:
      caller: the name of the guide, for error messages.
      prefix: the prefix of the sites' names.
      encoder: the network, or a function that makes it.
      code_size: the length of its output.
      local_start: the flow of a datum's latent variables.
      global_start: the flow of the global latent variables; None if the model has none.
      condition_on_global: whether the local flow sees the global latent variables, if any.
    """
    encoder = flow_module(f"{prefix}_encoder", encoder)
    sees_global = condition_on_global and global_start is not None
    num_globals = 0 if global_start is None else global_start.loc.size
    context_shape = (code_size + sees_global * num_globals,)
    units = functools.partial(
        ContextElementwise,
        transformer=transformers.ShiftScale(),
        event_shape=local_start.loc.shape,
        context_shape=context_shape,
        hidden_sizes=(),
        output_scale=1.0,  # not the identity, so that the encoder has a gradient from the start
    )
    between = flow_module(f"{prefix}_local_units", units)
    local_flow = local_start.module(f"{prefix}_local", between, context_shape=context_shape)
    global_flow = None if global_start is None else global_start.module(f"{prefix}_global")
    return AmortizedPosterior(caller, prefix, encoder, local_flow, global_flow, sees_global)


def as_rows(caller: str, value: Any) -> Array:
    """Features as ``(rows, ...)``, with at least one axis for the contents of a row.

    Raises:
      ValueError: if ``value`` is a number.
    """
    rows = jnp.asarray(value)
    if rows.ndim == 0:
        raise ValueError(
            f"{caller}: the features must be an array with a row for each datum, got the number "
            f"{value}"
        )
    return rows[:, None] if rows.ndim == 1 else rows


def encode(caller: str, encoder: Any, rows: Array) -> Array:
    """The output of the encoder for each of the rows, ``(rows, size)``.

    Raises:
      ValueError: if it is not a vector of floats for each row.
    """
    wanted = f"{caller}: `encoder` must map a row of shape {rows.shape[1:]} to a vector of floats"
    try:
        output = jax.vmap(encoder)(rows)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{wanted}; calling it failed") from error
    if not is_float_array(output) or output.ndim != 2:
        given = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[1:])}", output)
        raise ValueError(f"{wanted}, got {given}")
    return output


def output_size(caller: str, encoder: Any, rows: Array) -> int:
    """The length of the output of ``encoder``, a network or a function that makes one."""
    encoder = built(encoder)
    return jax.eval_shape(lambda: encode(caller, encoder, rows)).shape[-1]
