"""A guide's first look at its model: what may go wrong, and what needs it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from numpyro import handlers
from numpyro.infer.autoguide import AutoGuide

from flowdists._model_sites import latent_sites


def check_set_up(guide: AutoGuide, caller: str) -> None:
    """The guide has seen its model, which its method ``caller`` needs.

    Raises:
      ValueError: if it has not.
    """
    if guide.prototype_trace is None:
        raise ValueError(
            f"{type(guide).__name__}.{caller}: the guide has not seen its model yet; run "
            "`SVI.init`, or call `sample_posterior` with the model's arguments, first"
        )


@contextlib.contextmanager
def setting_up(guide: AutoGuide, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
    """Around the first run of a guide's model: after an error, the guide has not seen its model.

    Raises:
      ValueError: in place of another error, if the model has discrete latent sites.
    """
    try:
        yield
    except Exception:
        guide.prototype_trace = None
        _refuse_discrete(guide, args, kwargs)
        raise


def _refuse_discrete(guide: AutoGuide, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Name the discrete latent sites. NumPyro asks for a package that would not help."""
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
