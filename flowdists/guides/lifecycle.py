"""The stages of a guide: before and after it has seen its model, and with trained parameters."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from numpyro import handlers
from numpyro.infer.autoguide import AutoGuide

from flowdists._model_sites import latent_sites


def check_set_up(guide: AutoGuide, caller: str) -> None:
    """Check that the guide has seen its model, as its method ``caller`` needs.

    Raises:
      ValueError: if it has not.
    """
    if guide.prototype_trace is None:
        raise ValueError(
            f"{type(guide).__name__}.{caller}: the guide has not seen its model yet; first run "
            "`SVI.init`, or call `sample_posterior` with the model's arguments"
        )


def at_params(guide: AutoGuide, module: Callable[[], Any], params: dict[str, Any]) -> Any:
    """The result of ``module``, a part of the guide, where its parameters are ``params``.

    Raises:
      ValueError: if ``params`` lacks one of them.
    """

    def look_up(site: dict[str, Any]) -> Any:
        if site["type"] == "param" and site["name"] not in params:
            raise ValueError(
                f"{type(guide).__name__}: `params` must hold {site['name']!r}, got only "
                f"{sorted(params)}"
            )
        return params.get(site["name"])

    # Blocked, because inside another model these are values, not parameters to train.
    return handlers.block(handlers.substitute(module, substitute_fn=look_up))()


@contextlib.contextmanager
def setting_up(guide: AutoGuide, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
    """A context for the first run of the model: after an error, the guide has not seen its model.

    Raises:
      ValueError: in place of any other error, if the model has discrete latent sites.
    """
    try:
        yield
    except Exception:
        guide.prototype_trace = None
        _refuse_discrete(guide, args, kwargs)
        raise


def _refuse_discrete(guide: AutoGuide, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    # NumPyro's own error asks for a package that would not help.
    strategy = guide.init_loc_fn
    strategy = strategy if isinstance(strategy, functools.partial) else strategy()
    model = handlers.substitute(handlers.seed(guide.model, 0), substitute_fn=strategy)
    with handlers.block():
        sites = latent_sites(handlers.trace(model).get_trace(*args, **kwargs)).items()
    discrete = [name for name, site in sites if site["fn"].support.is_discrete]
    if discrete:
        raise ValueError(
            f"{type(guide).__name__}: `model` must have continuous latent variables only, got "
            f"discrete ones: {discrete}; sum over their values, as "
            "numpyro.distributions.Mixture does"
        ) from None
