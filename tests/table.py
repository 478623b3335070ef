"""One table of named constructors: every layer, combinator and recipe, in the states worth testing.

The parametrized tests of the contract run over it, so that a new layer is covered by a new line.
Each entry builds a bijector from a key; :func:`build` then moves its parameters away from their
start, at which most layers are the identity.
"""

import functools
import zlib
from collections.abc import Callable

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.transforms import (
    AffineTransform,
    ExpTransform,
    SoftplusTransform,
)

import flowdists as fd
from flowdists.transformers import Additive, Compose
from flowdists.transformers import Affine as AffineTransformer

Make = Callable[[jax.Array], fd.Bijector]

# Finite differences want a smooth network.
SMALL = {"hidden_sizes": (8, 8), "activation": "tanh"}
SMALL_CONV = {"hidden_channels": 4, "activation": "tanh"}
SPLINE = fd.RationalQuadratic(num_bins=5, bound=2.5)
CIRCULAR = fd.RationalQuadratic(num_bins=4, bound=np.pi, tails="circular")


def smooth(x: jax.Array) -> jax.Array:
    """An activation that can be pickled, as JAX's own cannot."""
    return jnp.tanh(x)


def _equinox_coupling(key: jax.Array) -> fd.Bijector:
    network = eqx.nn.MLP(
        2, 4, width_size=8, depth=2, activation=smooth, final_activation=smooth, key=key
    )
    return fd.Coupling(key, (4,), transformer=AffineTransformer(), conditioner=network)


class _EquinoxConv(eqx.Module):
    """Channels first, as Equinox has them."""

    conv: eqx.nn.Conv2d

    def __call__(self, x):
        return jnp.moveaxis(jnp.tanh(self.conv(jnp.moveaxis(x, -1, 0))), 0, -1)


def _equinox_conv_coupling(key: jax.Array) -> fd.Bijector:
    network = _EquinoxConv(eqx.nn.Conv2d(1, 2, kernel_size=3, padding=1, key=key))
    return fd.ConvCoupling(key, (2, 2, 2), conditioner=network)


def _autoregressive(key: jax.Array, size: int = 4, **options: object) -> fd.Bijector:
    return fd.MaskedAutoregressive(key, (size,), **SMALL, **options)


def _foreign_chain(key: jax.Array) -> fd.Bijector:
    with jax.ensure_compile_time_eval():  # so that its numbers are known, as they are to a user
        scale = distrax.Block(distrax.ScalarAffine(shift=0.5, scale=2.0), 1)
        shift = AffineTransform(jnp.ones(3), jnp.array([0.4, 0.5, 0.6]))
    return fd.Chain([shift, scale, fd.AffineCoupling(key, (3,), **SMALL), SoftplusTransform()])


def _given_mask(key: jax.Array) -> fd.Bijector:
    return fd.AffineCoupling(key, (2, 2), mask=np.array([[1, 0], [0, 0]]), **SMALL)


LAYERS: dict[str, Make] = {
    "affine": lambda key: fd.Affine(jnp.array([1.0, -2.0, 0.5]), jnp.array([0.5, 1.0, 2.0])),
    "affine_scalar": lambda key: fd.Affine(jnp.array(1.0), jnp.array(0.5)),
    "elementwise_matrix": lambda key: fd.Elementwise(SPLINE, (2, 3)),
    "elementwise_composed": lambda key: fd.Elementwise(
        Compose((SPLINE, AffineTransformer(scale="exp"), SPLINE)), (3,)
    ),
    "spline_scalar": lambda key: fd.RationalQuadraticSpline((), num_bins=5),
    "spline": lambda key: fd.RationalQuadraticSpline((3,), num_bins=5, bound=2.5),
    "spline_circular": lambda key: fd.Elementwise(CIRCULAR, (3,)),
    "permute": lambda key: fd.Permute((2, 0, 3, 1)),
    "permute_matrix": lambda key: fd.Permute((2, 0, 3, 1), (2, 2)),
    "reverse": lambda key: fd.Reverse((3,)),
    "lu_linear": lambda key: fd.LULinear(key, (4,)),
    "lu_linear_rotation": lambda key: fd.LULinear(key, (4,), start="rotation"),
    "lu_linear_1d": lambda key: fd.LULinear(key, (1,)),
    "lu_linear_matrix": lambda key: fd.LULinear(key, (2, 2)),
    "householder": lambda key: fd.Householder(key, (4,), num_reflections=3),
    "act_norm": lambda key: fd.ActNorm((3,)),
    "act_norm_image": lambda key: fd.ActNorm((2, 2, 2)),
    "affine_coupling": lambda key: fd.AffineCoupling(key, (5,), **SMALL),
    "affine_coupling_flipped": lambda key: fd.AffineCoupling(key, (5,), flip=True, **SMALL),
    "affine_coupling_exp": lambda key: fd.AffineCoupling(key, (2,), scale="exp", **SMALL),
    "affine_coupling_sigmoid": lambda key: fd.AffineCoupling(key, (3,), scale="sigmoid", **SMALL),
    "affine_coupling_checkerboard": lambda key: fd.AffineCoupling(
        key, (2, 3), mask="checkerboard", **SMALL
    ),
    "affine_coupling_channel": lambda key: fd.AffineCoupling(
        key, (2, 1, 3), mask="channel", **SMALL
    ),
    "affine_coupling_given_mask": _given_mask,
    "additive_coupling": lambda key: fd.Coupling(key, (4,), transformer=Additive(), **SMALL),
    "spline_coupling": lambda key: fd.SplineCoupling(key, (4,), num_bins=5, **SMALL),
    "spline_coupling_affine": lambda key: fd.Coupling(
        key, (4,), transformer=Compose((SPLINE, AffineTransformer())), **SMALL
    ),
    "spline_coupling_circular": lambda key: fd.Coupling(key, (3,), transformer=CIRCULAR, **SMALL),
    "spline_coupling_residual": lambda key: fd.SplineCoupling(
        key, (4,), mask="alternating", residual=True, **SMALL
    ),
    "coupling_equinox": _equinox_coupling,
    "autoregressive": _autoregressive,
    "autoregressive_1d": functools.partial(_autoregressive, size=1),
    "autoregressive_order": functools.partial(_autoregressive, order=(2, 0, 3, 1)),
    "autoregressive_spline": functools.partial(_autoregressive, transformer=SPLINE),
    "autoregressive_residual": functools.partial(_autoregressive, residual=True),
    "autoregressive_matrix": lambda key: fd.MaskedAutoregressive(key, (2, 2), **SMALL),
    "squeeze": lambda key: fd.Squeeze((4, 2, 3)),
    "squeeze_3": lambda key: fd.Squeeze((3, 6, 1), factor=3),
    "conv_1x1": lambda key: fd.InvertibleConv1x1(key, (2, 3, 4)),
    "conv_coupling": lambda key: fd.ConvCoupling(key, (3, 2, 3), **SMALL_CONV),
    "conv_coupling_flipped": lambda key: fd.ConvCoupling(key, (2, 2, 3), flip=True, **SMALL_CONV),
    "conv_coupling_checkerboard": lambda key: fd.ConvCoupling(
        key, (2, 3, 2), mask="checkerboard", normalize=True, **SMALL_CONV
    ),
    "conv_coupling_additive": lambda key: fd.ConvCoupling(
        key, (2, 2, 2), transformer=Additive(), residual=True, **SMALL_CONV
    ),
    "conv_coupling_spline": lambda key: fd.ConvCoupling(
        key, (2, 2, 2), transformer=SPLINE, mask="checkerboard", flip=True, **SMALL_CONV
    ),
    "conv_coupling_equinox": _equinox_conv_coupling,
    "split_prior": lambda key: fd.SplitPrior((2, 2, 3)),
    "top_prior": lambda key: fd.TopPrior((2, 2, 3)),
    "glow": lambda key: (
        fd.Glow(key, (4, 4, 2), num_scales=2, steps_per_scale=2, **SMALL_CONV).bijector
    ),
    "real_nvp_image": lambda key: (
        fd.RealNVPImage(key, (4, 4, 1), num_scales=1, steps_per_scale=2, **SMALL_CONV).bijector
    ),
    "repeat_checkpoint": lambda key: fd.Repeat(
        key, lambda k: fd.AffineCoupling(k, (4,), **SMALL), 3, memory="checkpoint"
    ),
    "inverse": lambda key: fd.Inverse(fd.AffineCoupling(key, (4,), **SMALL)),
    "inverse_autoregressive": lambda key: fd.Inverse(_autoregressive(key)),
    "chain": lambda key: fd.Chain(
        [
            fd.AffineCoupling(key, (4,), **SMALL),
            fd.Reverse((4,)),
            fd.LULinear(key, (4,)),
        ]
    ),
    "chain_scalar_after_vector": lambda key: fd.Chain([fd.LULinear(key, (3,)), ExpTransform()]),
    "chain_foreign": _foreign_chain,
    "repeat": lambda key: fd.Repeat(key, lambda k: fd.AffineCoupling(k, (4,), **SMALL), 3),
    "repeat_chain": lambda key: fd.Repeat(
        key, lambda k: fd.Chain([fd.SplineCoupling(k, (3,), **SMALL), fd.LULinear(k, (3,))]), 2
    ),
    "support_interval": lambda key: fd.to_support(constraints.interval(-1.0, 3.0)),
    "support_positive": lambda key: fd.to_support(constraints.positive),
    "support_simplex": lambda key: fd.to_support(constraints.simplex),
    "concatenated": lambda key: fd.Concatenated(
        [
            fd.AffineCoupling(key, (2,), **SMALL),
            fd.Elementwise(SPLINE, (1, 2)),
            ExpTransform(),
        ],
        [(2,), (1, 2), ()],
    ),
    "remainder": lambda key: (
        fd.given(
            fd.MAF(key, (4,), order=(2, 0, 3, 1), num_layers=2, **SMALL),
            (0, 2),
            jnp.array([0.5, -1.0]),
        ).bijector
    ),
    # Scaled down: at logits beyond 15, pixels have lost the digits asked for.
    "pixel_logit": lambda key: fd.Chain(
        [fd.Affine(jnp.zeros((2, 3)), jnp.array(0.2)), fd.PixelLogit((2, 3))]
    ),
    "chain_to_support": lambda key: fd.Chain(
        [
            fd.RationalQuadraticSpline((3,)),
            fd.to_support(constraints.interval(np.zeros(3), np.array([1.0, 2.0, 3.0]))),
        ]
    ),
}

CONDITIONAL_LAYERS: dict[str, Make] = {
    "conv_coupling": lambda key: fd.ConvCoupling(key, (2, 2, 2), context_shape=(2,), **SMALL_CONV),
    "split_prior": lambda key: fd.SplitPrior((2, 2, 2), context_shape=(3,)),
    "top_prior": lambda key: fd.TopPrior((2, 2, 2), context_shape=(2, 2)),
    "glow": lambda key: (
        fd.Glow(
            key, (4, 4, 1), num_scales=2, steps_per_scale=1, context_shape=(2,), **SMALL_CONV
        ).bijector
    ),
    "context_elementwise": lambda key: fd.ContextElementwise(
        key, SPLINE, (2, 2), (2,), hidden_sizes=(8,), activation="tanh"
    ),
    "context_elementwise_linear": lambda key: fd.ContextElementwise(
        key, AffineTransformer(), (3,), (2,), hidden_sizes=()
    ),
    "context_elementwise_scalar": lambda key: fd.ContextElementwise(
        key, AffineTransformer(), (), (2, 2), conditioner=fd.MLP(key, 4, 2, hidden_sizes=(8,))
    ),
    "affine_coupling": lambda key: fd.AffineCoupling(key, (4,), context_shape=(2,), **SMALL),
    "affine_coupling_scalar_context": lambda key: fd.AffineCoupling(
        key, (3,), context_shape=(), **SMALL
    ),
    "spline_coupling_residual": lambda key: fd.SplineCoupling(
        key, (4,), context_shape=(2, 2), residual=True, **SMALL
    ),
    "autoregressive": functools.partial(_autoregressive, context_shape=(2,)),
    "autoregressive_1d": functools.partial(_autoregressive, size=1, context_shape=(2,)),
    "autoregressive_residual_spline": functools.partial(
        _autoregressive, context_shape=(2,), residual=True, transformer=SPLINE
    ),
    "inverse": lambda key: fd.Inverse(_autoregressive(key, context_shape=(2,))),
    "embedded": lambda key: fd.Embedded(
        fd.AffineCoupling(key, (3,), context_shape=(4,), **SMALL),
        (3, 2),
        embedding=fd.DeepSets(key, 2, 4, hidden_sizes=(8,), activation="tanh"),
    ),
    "embedded_normalization": lambda key: fd.Embedded(_autoregressive(key, context_shape=()), ()),
    "chain": lambda key: fd.Chain(
        [
            fd.LULinear(key, (4,)),
            fd.AffineCoupling(key, (4,), context_shape=(2,), **SMALL),
        ]
    ),
    "repeat": lambda key: fd.Repeat(
        key, lambda k: fd.AffineCoupling(k, (4,), context_shape=(2,), **SMALL), 3
    ),
}

# How far to move parameters of what would overflow: unbounded scales, of inputs that are not small.
MOVES = {"glow": 0.05, "real_nvp_image": 0.1, "split_prior": 0.1}

RECIPES: dict[str, Callable[..., fd.Flow | fd.ConditionalFlow]] = {
    "real_nvp": functools.partial(fd.RealNVP, num_layers=3, **SMALL),
    "glow_1d": functools.partial(fd.Glow1D, num_layers=2, **SMALL),
    "maf": functools.partial(fd.MAF, num_layers=3, **SMALL),
    "iaf": functools.partial(fd.IAF, num_layers=2, **SMALL),
    "nsf": functools.partial(fd.NSF, num_layers=3, num_bins=5, **SMALL),
    "nsf_splines_alone": functools.partial(fd.NSF, num_layers=2, num_bins=5, affine=False, **SMALL),
    "nsf_autoregressive": functools.partial(
        fd.NSF, num_layers=2, num_bins=5, autoregressive=True, **SMALL
    ),
}


def perturb(key: jax.Array, tree, scale: float = 0.5):
    """Every parameter moved by a normal draw of deviation ``scale``."""
    draws = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf + scale * draws.normal(size=leaf.shape), leaf.dtype),
        jax.tree.map(np.asarray, tree),
    )


def _key(name: str) -> jax.Array:
    return jax.random.key(zlib.crc32(name.encode()))


@functools.cache
def _start(name: str, x64: bool) -> fd.Bijector:
    return jax.jit(EVERY[name])(_key(name))


def build(name: str) -> fd.Bijector:
    """The entry of ``EVERY`` with parameters away from their start, the same on every call."""
    scale = MOVES.get(name.split(":")[1], 0.4)
    return perturb(_key(name), _start(name, jax.config.jax_enable_x64), scale)


def build_flow(name: str, event_shape=(4,), scale=0.3, **options) -> fd.Flow | fd.ConditionalFlow:
    """A recipe's flow with parameters away from their start, the same on every call."""
    recipe = functools.partial(RECIPES[name], event_shape=event_shape, **options)
    flow = jax.jit(recipe)(_key(name))
    return flow.replace(bijector=perturb(_key(name), flow.bijector, scale))


EVERY: dict[str, Make] = {
    **{f"layer:{name}": make for name, make in LAYERS.items()},
    **{f"conditional:{name}": make for name, make in CONDITIONAL_LAYERS.items()},
    **{
        f"recipe:{name}": functools.partial(lambda recipe, key: recipe(key, (4,)).bijector, recipe)
        for name, recipe in RECIPES.items()
    },
    **{
        f"conditional_recipe:{name}": functools.partial(
            lambda recipe, key: recipe(key, (3,), context_shape=(2,)).bijector, recipe
        )
        for name, recipe in RECIPES.items()
    },
}
"""Every bijector of the project, by name; :func:`build` takes an entry of it."""
