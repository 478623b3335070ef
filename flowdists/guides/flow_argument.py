"""The argument of a guide that gives its flow: a recipe, another function, or the flow itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.guides.module import is_factory
from flowdists.recipes import MAF, NSF, Glow1D, RealNVP

Shape = tuple[int, ...]


class FlowArgument:
    """An argument of a guide that gives a flow. The shapes of the flow depend on the model.

    Args:
      caller: the name of the guide, for error messages.
      argument: the name of the argument, for error messages.
      flow: a recipe, another function ``(key, event_shape)``, or a flow of type ``kind``.
      options: passed to the function.
      kind: the type of flow that the guide needs.

    Raises:
      TypeError: if ``flow`` is none of these, or is a flow and there are options.
    """

    def __init__(
        self,
        caller: str,
        argument: str,
        flow: Any,
        options: Mapping[str, Any] | None,
        kind: type[Flow] | type[ConditionalFlow],
    ) -> None:
        if not (isinstance(flow, kind) or is_factory(flow)):
            raise TypeError(
                f"{caller}: `{argument}` must be a recipe such as flowdists.NSF, a function that "
                f"returns a {kind.__name__}, or a {kind.__name__}; got {type(flow).__name__}"
            )
        if isinstance(flow, kind) and options:
            raise TypeError(
                f"{caller}: options {sorted(options)} were given, but `{argument}` is built already"
            )
        self._name = f"{caller}: `{argument}`"
        self._flow = flow
        self._options = dict(options or {})
        self._kind = kind

    def resolve(self, event_shape: Shape, meaning: str, **shapes: Shape) -> Any:
        """The flow, or a function of a key that makes it and checks its type and shapes.

        Args:
          event_shape: the shape of the flow's events.
          meaning: what an event is, for error messages.
          **shapes: other shapes to give to the function, such as ``context_shape``.

        Raises:
          TypeError: when the function is called, if it makes something else.
          ValueError: if the flow has other shapes; also when the function is called.
        """
        wanted = {"event_shape": event_shape, "batch_shape": (), **shapes}

        def check(flow: Any) -> Any:
            if not isinstance(flow, self._kind):
                raise TypeError(
                    f"{self._name} must give a {self._kind.__name__}, got {type(flow).__name__}"
                )
            for key, shape in wanted.items():
                given = getattr(flow, key, shape)  # a ConditionalFlow has no batch shape
                if given != shape:
                    raise ValueError(
                        f"{self._name} must have {key} {shape}, got {given}; {meaning}"
                    )
            return flow

        if isinstance(self._flow, self._kind):
            return check(self._flow)
        make, options = self._flow, self._options | shapes
        if event_shape == (1,):
            make, options = _for_one_dimension(make, options)
        return lambda key: check(make(key, event_shape, **options))


def _for_one_dimension(flow: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An autoregressive recipe in place of a coupling one, which needs two dimensions."""
    if isinstance(flow, functools.partial) and not flow.args:
        flow, options = flow.func, flow.keywords | options
    if flow is NSF:
        return NSF, options | {"autoregressive": True}
    if flow in (RealNVP, Glow1D):
        return MAF, {name: value for name, value in options.items() if name != "mask"}
    return flow, options
