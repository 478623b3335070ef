"""What users give for a flow of a guide: a recipe, another function, or the flow itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from flowdists.guides._factory import for_one_dimension, is_factory

Array = jax.Array
Shape = tuple[int, ...]


class Source:
    """A flow that is still to be made, because its shapes depend on the model.

    Args:
      argument: name of the guide's argument, for error messages.
      flow: a recipe, another function ``(key, event_shape)``, or a flow of type ``kind``.
      options: what to pass to the function.
      kind: :class:`~flowdists.Flow` or :class:`~flowdists.ConditionalFlow`.

    Raises:
      TypeError: if ``flow`` is none of these, or takes no options.
    """

    def __init__(
        self, argument: str, flow: Any, options: Mapping[str, Any] | None, kind: type
    ) -> None:
        if not (isinstance(flow, kind) or is_factory(flow)):
            raise TypeError(
                f"AutoAmortizedFlow: `{argument}` must be a recipe such as flowdists.NSF, a "
                f"function that returns a {kind.__name__}, or a {kind.__name__}; got "
                f"{type(flow).__name__}"
            )
        if isinstance(flow, kind) and options:
            raise TypeError(
                f"AutoAmortizedFlow: options {sorted(options)} were given, but `{argument}` is "
                "built already"
            )
        self._argument = argument
        self._flow = flow
        self._options = dict(options or {})
        self._kind = kind

    def resolve(self, event_shape: Shape, context_shape: Shape | None = None) -> Any:
        """The flow, or a function of a key that makes it, which have been seen to fit.

        Raises:
          TypeError: if the function returns something else.
          ValueError: if the flow has other shapes.
        """
        if isinstance(self._flow, self._kind):
            self._check(self._flow, event_shape, context_shape)
            return self._flow
        make, options = self._flow, self._options
        if event_shape == (1,):
            make, options = for_one_dimension(make, options)
        if context_shape is not None:
            options = options | {"context_shape": context_shape}

        def build(key: Array) -> Any:
            return make(key, event_shape, **options)

        # Known values also where the guide is being traced.
        with jax.ensure_compile_time_eval():
            self._check(build(jax.random.key(0)), event_shape, context_shape)
        return build

    def _check(self, flow: Any, event_shape: Shape, context_shape: Shape | None) -> None:
        if not isinstance(flow, self._kind):
            raise TypeError(
                f"AutoAmortizedFlow: `{self._argument}` must give a {self._kind.__name__}, got "
                f"{type(flow).__name__}"
            )
        wanted = {"event_shape": event_shape, "context_shape": context_shape, "batch_shape": ()}
        for name, shape in wanted.items():
            given = getattr(flow, name, shape)  # each kind has two of the three
            if given != shape:
                raise ValueError(
                    f"AutoAmortizedFlow: `{self._argument}` must have {name} {shape}, got {given}; "
                    "an event holds the unconstrained latent variables of one datum, or the "
                    "global ones, and a context the encoder's output, then the global latent "
                    "variables where the flow sees them"
                )
