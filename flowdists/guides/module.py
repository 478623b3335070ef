"""Flows, bijectors and networks whose parameters are sites of a NumPyro model or guide."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.primitives import Messenger

from flowdists._pytree import is_float_array
from flowdists.bijectors.base import Bijector
from flowdists.conditional_flow import ConditionalFlow
from flowdists.flow import Flow
from flowdists.io.names import named_leaves

Array = jax.Array
Shape = tuple[int, ...]
Prior: TypeAlias = dist.Distribution | Mapping[str, dist.Distribution] | Callable[[str, Shape], Any]


def is_factory(flow: Any) -> bool:
    """Whether ``flow`` is a function that makes a flow, not a pytree that can be called."""
    return callable(flow) and jax.tree_util.all_leaves([flow])


def built(flow: Any, **options: Any) -> Any:
    """``flow``, or what it makes with a fixed key if it is a function.

    Its structure and configuration are the same for every key. They are known values, also where
    the model is being traced: traced ones would be taken for parameters.
    """
    if not is_factory(flow):
        return flow
    with jax.ensure_compile_time_eval():
        return flow(jax.random.key(0), **options)


def flow_module(name: str, flow: Any, **options: Any) -> Any:
    """A flow whose parameters are trained by SVI: every leaf is a ``numpyro.param`` site.

    Use it inside a model or a guide. Each site has the Python path of its leaf as its name, as in
    ``prior.layers[1].log_scale``. The values in ``svi.get_params`` are the trained parameters, and
    ``handlers.substitute(flow_module, params)(name, flow)`` is the trained flow.

    Args:
      name: prefix of the sites' names.
      flow: a :class:`~flowdists.Flow`, :class:`~flowdists.ConditionalFlow`,
        :class:`~flowdists.Bijector`, network or any other pytree of floating-point arrays: training
        starts from its parameters; or a recipe, or any function ``(key, **options)`` that returns
        one of these.
      **options: passed to the function, such as ``event_shape=(6,)``.

    Returns:
      The same kind of object, with the sites' values as its parameters. In a flow, the bijector is
      trained. The base, a context that the flow was conditioned on, and transforms of other
      libraries stay as they are.

    Raises:
      TypeError: if there is nothing to train in ``flow``, or it is none of the above.
      ValueError: if parameters have to be drawn and there is no key (an unseeded model), or the
        value of a site does not have the shape of the parameter.

    >>> import numpyro
    >>> def model():
    ...     prior = flow_module("prior", MAF, event_shape=(2,), num_layers=2, hidden_sizes=(8,))
    ...     numpyro.sample("z", prior)
    >>> trace = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace()
    >>> [site for site in trace if site.startswith("prior.layers[1]")]
    ['prior.layers[1].loc', 'prior.layers[1].log_scale']
    """
    return _module(
        "flow_module",
        name,
        flow,
        options,
        lambda path, leaf, initial: numpyro.param(name + path, initial),
    )


def random_flow_module(name: str, flow: Any, prior: Prior, **options: Any) -> Any:
    """A Bayesian flow: every leaf is a ``numpyro.sample`` site, for NUTS or a guide to infer.

    Args:
      name: prefix of the sites' names, which are those of :func:`~flowdists.flow_module`.
      flow: as in :func:`~flowdists.flow_module`; usually a recipe. A leaf with a prior is drawn
        from the prior, and its value in ``flow`` is ignored. A leaf without a prior starts from
        its value in ``flow``.
      prior: a distribution that broadcasts to every leaf; or a mapping from paths of leaves (the
        names of the sites without ``name``, such as ``".loc"``) to distributions, where leaves that
        are not in it become ``numpyro.param`` sites; or a function ``(path, shape)`` that returns a
        distribution, or None for a ``numpyro.param`` site.
      **options: as in :func:`~flowdists.flow_module`.

    Returns:
      The same kind of object, with the sites' values as its parameters.

    Raises:
      TypeError: as in :func:`~flowdists.flow_module`, or if a prior is not a distribution.
      ValueError: as in :func:`~flowdists.flow_module`, or if the shape of a prior does not fit its
        leaf, or the mapping has a path that no leaf has.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model():
    ...     flow = random_flow_module("flow", Affine(jnp.zeros(2), jnp.ones(2)), dist.Normal(0, 1))
    ...     numpyro.sample("z", Flow(StandardNormal((2,)), flow))
    >>> list(numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace())
    ['flow.loc', 'flow.log_scale', 'z']
    """
    caller = "random_flow_module"
    unknown = set(prior) if isinstance(prior, Mapping) else set()

    def draw(path: str, leaf: Array, initial: Any) -> Array:
        unknown.discard(path)
        own: Any = prior
        if isinstance(prior, Mapping):
            own = prior.get(path)
        elif callable(prior) and not isinstance(prior, dist.Distribution):
            own = prior(path, leaf.shape)
        if own is None:
            return numpyro.param(name + path, initial)
        return numpyro.sample(name + path, _over_leaf(caller, path, own, leaf.shape))

    module = _module(caller, name, flow, options, draw)
    if unknown:
        raise ValueError(f"{caller}: `prior` names leaves that do not exist: {sorted(unknown)}")
    return module


def _module(
    caller: str,
    name: str,
    flow: Any,
    options: dict[str, Any],
    register: Callable[..., Any],
) -> Any:
    if not isinstance(name, str):
        raise TypeError(f"{caller}: `name` must be a string, got {type(name).__name__}")
    # This handler does nothing. But with no handler at all, NumPyro would raise its own errors, and
    # warn, where `_prepare` has better messages.
    with Messenger():
        structure, initial = _prepare(caller, flow, options)
        tree, rebuild = _trained_part(structure)
        leaves = _named_leaves(tree)
        trained = [path for path, leaf in leaves.items() if is_float_array(leaf)]
        if not trained:
            raise TypeError(
                f"{caller}: `flow` must be a flow, a bijector, a network or a function that "
                f"returns one, got {type(structure).__name__} without floating-point arrays to "
                "train"
            )
        for path in trained:
            value = jnp.asarray(register(path, leaves[path], initial(path)))
            if value.shape != leaves[path].shape:
                raise ValueError(
                    f"{caller}: the value of site {name + path!r} must have the shape "
                    f"{leaves[path].shape} of the parameter, got {value.shape}; call {caller} "
                    "outside of plates, and with the options that the value belongs to"
                )
            leaves[path] = value
    return rebuild(jax.tree.unflatten(_structure(tree), list(leaves.values())))


def _prepare(caller: str, flow: Any, options: dict[str, Any]) -> tuple[Any, Callable[[str], Any]]:
    """The object to register, and a function of a leaf's path that gives its initial value."""
    if not is_factory(flow):
        if options:
            raise TypeError(
                f"{caller}: options {sorted(options)} were given, but `flow` is built already "
                f"({type(flow).__name__}); give the recipe instead"
            )
        return flow, _named_leaves(_trained_part(flow)[0]).__getitem__
    key = numpyro.prng_key()

    @functools.cache
    def draw() -> dict[str, Array]:
        if key is None:
            raise ValueError(
                f"{caller}: there is no key to draw the parameters with; wrap the model in "
                "numpyro.handlers.seed, or give a built flow"
            )
        return _named_leaves(_trained_part(flow(key, **options))[0])

    # Initial values are functions, so that nothing is drawn where the value is substituted.
    return built(flow, **options), lambda path: lambda _: draw()[path]


def _trained_part(flow: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The part of ``flow`` whose parameters are trained, and a function that puts it back."""
    if isinstance(flow, Flow | ConditionalFlow):
        layer, condition = flow.bijector.unconditioned()
        return layer, lambda layer: flow.replace(bijector=condition(layer))
    return flow, lambda tree: tree


def _is_foreign(node: Any) -> bool:
    """Whether ``node`` is a bijector that is never trained, even where its numbers are traced."""
    return isinstance(node, Bijector) and not node.is_trainable


def _named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by name. A foreign transform counts as one leaf, even with traced numbers."""
    return named_leaves(tree, "", is_leaf=_is_foreign)


def _structure(tree: Any) -> Any:
    return jax.tree.structure(tree, is_leaf=_is_foreign)


def _over_leaf(caller: str, path: str, prior: Any, shape: Shape) -> dist.Distribution:
    """``prior`` as a distribution of one leaf: an event of ``shape``."""
    if not isinstance(prior, dist.Distribution):
        raise TypeError(
            f"{caller}: `prior` of {path} must be a numpyro distribution, got "
            f"{type(prior).__name__}"
        )
    cut = len(shape) - prior.event_dim
    try:
        fits = jnp.broadcast_shapes(prior.batch_shape, shape[:cut]) == shape[:cut]
    except ValueError:
        fits = False
    if not fits or cut < 0 or prior.event_shape != shape[cut:]:
        raise ValueError(
            f"{caller}: `prior` of {path} must broadcast to the leaf's shape {shape}, got batch "
            f"shape {prior.batch_shape} and event shape {prior.event_shape}"
        )
    return prior.expand(shape[:cut]).to_event(cut)
