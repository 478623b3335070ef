"""From a recipe's layers to a flow: the base, the support and the embedding of a context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from flowdists import _check
from flowdists.bases import make_base
from flowdists.bijectors.base import Array, Bijector, Shape
from flowdists.bijectors.compose.chain import Chain
from flowdists.bijectors.compose.embedded import Embedded
from flowdists.bijectors.context_elementwise import ContextElementwise
from flowdists.bijectors.support import support_of
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow, Recipe
from flowdists.networks.base import Activation
from flowdists.networks.embedding import Embedding
from flowdists.transformers import ShiftScale


def assemble(
    recipe: Recipe,
    key: Array,
    make_layers: Callable[[Array, Shape, dict[str, Any]], Bijector],
    *,
    hidden_sizes: Sequence[int] = (128, 128),
    residual: bool = False,
    activation: Activation = "relu",
    context_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    embedding: Any = None,
    conditional_base: bool = False,
    support: Any = None,
    base: Any = None,
) -> Flow | ConditionalFlow:
    """The flow of a recipe's layers. The keywords, and their text, are shared by all recipes.

    Args:
      recipe: the name of the recipe, the event's shape and the options, which the flow keeps.
      key: PRNG key.
      make_layers: builds the layers from a key, the shape of an event, and the first four options,
        with the shape of an embedded context in place of ``context_shape``.
      hidden_sizes: widths of each network's hidden layers, or of its residual blocks.
      residual: whether the networks are residual.
      activation: a function, or the name of one in :mod:`jax.nn`.
      context_shape: shape of one context, for a conditional flow.
      num_classes: number of classes, for labels as contexts, in place of ``context_shape``:
        :meth:`~flowdists.ConditionalFlow.condition` then takes integers below it.
      embedding: None; or any callable pytree that maps one context to a vector, trained with the
        flow: :class:`~flowdists.DeepSets`, an :class:`~flowdists.MLP` with ``output_scale=1.0``, an
        Equinox module. Contexts are standardized before it, from the first data.
      conditional_base: whether the base gets a location and scale from a network of the context.
      support: support of the density: a NumPyro constraint, such as ``prior.support``, or one for
        each element of a vector. The last layer maps onto it; ``event_shape`` is the shape of a
        constrained event.
      base: a NumPyro distribution of the latents; by default a standard normal.

    Returns:
      A :class:`~flowdists.Flow`; with a ``context_shape`` or ``num_classes`` a
      :class:`~flowdists.ConditionalFlow`.

    Raises:
      TypeError: for an invalid key, or a base that is not a distribution.
      ValueError: for an invalid shape or option, which the message names.
    """
    caller, event_shape = recipe.name, recipe.event_shape
    onto_support: list[Bijector] = []
    if support is not None:
        onto_support = [support_of(caller, support, event_shape)]
        event_shape = onto_support[0].inverse_shape(event_shape)
    context_shape = _context_shape(caller, context_shape, num_classes)
    network: dict[str, Any] = {
        "hidden_sizes": hidden_sizes,
        "residual": residual,
        "activation": activation,
        "context_shape": context_shape,
    }
    if context_shape is None:
        _check_no_context(caller, embedding=embedding, conditional_base=conditional_base)
        bijector = _chained([make_layers(key, event_shape, network), *onto_support])
        return Flow(make_base(caller, base, bijector.event_shape), bijector, recipe=recipe)

    if embedding is not None:
        context_size = Embedding(caller, embedding, context_shape).output_size(caller)
        network["context_shape"] = (context_size,)
    from_base: list[Bijector] = []
    if conditional_base:
        key, base_key = jax.random.split(key)
        from_base = [
            ContextElementwise(
                base_key,
                event_shape,
                network["context_shape"],
                transformer=ShiftScale(scale="exp"),
                hidden_sizes=hidden_sizes,
            )
        ]
    bijector = _chained([*from_base, make_layers(key, event_shape, network), *onto_support])
    if num_classes is None or embedding is not None:  # classes alone are not standardized
        bijector = Embedded(bijector, context_shape, embedding=embedding)
    base = make_base(caller, base, bijector.event_shape)
    return ConditionalFlow(base, bijector, recipe=recipe, num_classes=num_classes)


def _context_shape(caller: str, context_shape: Any, num_classes: Any) -> Shape | None:
    if num_classes is None:
        return _check.optional_shape(caller, "context_shape", context_shape)
    if context_shape is not None:
        raise ValueError(
            f"{caller}: `num_classes` ({num_classes}) and `context_shape` ({context_shape}) were "
            "both given, expected one of them"
        )
    return (_check.positive_int(caller, "num_classes", num_classes),)


def _check_no_context(caller: str, **options: Any) -> None:
    for name, value in options.items():
        if value is not None and value is not False:
            raise ValueError(
                f"{caller}: `{name}` is for conditional flows, and there is no context: give "
                "`context_shape` or `num_classes`"
            )


def _chained(layers: list[Bijector]) -> Bijector:
    return layers[0] if len(layers) == 1 else Chain(layers)
