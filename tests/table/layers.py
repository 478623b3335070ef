"""Layers and combinators without a context."""

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.transforms import AffineTransform, ExpTransform, SoftplusTransform

import flowdists as fd
from flowdists.conditionals.remainder import Remainder
from flowdists.transformers import Additive, Compose, ShiftScale
from tests.table.record import Entry
from tests.table.sizes import CIRCULAR, SMALL, SPLINE


def smooth(x: jax.Array) -> jax.Array:
    """An activation that can be pickled, as JAX's own cannot."""
    return jnp.tanh(x)


def coupling(key: jax.Array, size: int = 4, **options: object) -> fd.AffineCoupling:
    """A small affine coupling."""
    return fd.AffineCoupling(key, (size,), **SMALL, **options)


def autoregressive(key: jax.Array, size: int = 4, **options: object) -> fd.MaskedAutoregressive:
    """A small autoregressive layer."""
    return fd.MaskedAutoregressive(key, (size,), **SMALL, **options)


def equinox_coupling(key: jax.Array) -> fd.Bijector:
    """A coupling with a foreign network."""
    network = eqx.nn.MLP(
        2, 4, width_size=6, depth=2, activation=smooth, final_activation=smooth, key=key
    )
    return fd.Coupling(key, (4,), transformer=ShiftScale(), conditioner=network)


def foreign_chain(key: jax.Array) -> fd.Bijector:
    """Transforms of NumPyro's and of distrax's before and behind a layer."""
    with jax.ensure_compile_time_eval():  # so that its numbers are known, as they are to a user
        scale = distrax.Block(distrax.ScalarAffine(shift=0.5, scale=2.0), 1)
        shift = AffineTransform(jnp.ones(3), jnp.array([0.4, 0.5, 0.6]))
    return fd.Chain([shift, scale, coupling(key, 3), SoftplusTransform()])


def remainder(key: jax.Array) -> fd.Bijector:
    """The rest of a flow of which two elements are given."""
    flow = fd.MAF(key, (4,), order=(2, 0, 3, 1), num_layers=1, **SMALL)
    return fd.given(flow, (0, 2), jnp.array([0.5, -1.0])).bijector


class Doubled(fd.Wrapper):
    """A wrapper of a user's own: twice what another bijector gives."""

    bijector: fd.Bijector

    def forward_and_log_det(self, x: jax.Array, context=None) -> tuple[jax.Array, jax.Array]:
        """See :class:`flowdists.Bijector`."""
        y, log_det = self.bijector.forward_and_log_det(x, context)
        return 2 * y, log_det + x.shape[-1] * jnp.log(2.0)

    def inverse_and_log_det(self, y: jax.Array, context=None) -> tuple[jax.Array, jax.Array]:
        """See :class:`flowdists.Bijector`."""
        x, log_det = self.bijector.inverse_and_log_det(y / 2, context)
        return x, log_det - y.shape[-1] * jnp.log(2.0)


def pixel_logit(key: jax.Array) -> fd.Bijector:
    """Scaled down: at logits beyond 15, pixels have lost the digits asked for."""
    return fd.Chain([fd.Affine(jnp.zeros((2, 3)), jnp.array(0.2)), fd.PixelLogit((2, 3))])


def chain_to_support(key: jax.Array) -> fd.Bijector:
    """A flow on a box."""
    box = constraints.interval(np.zeros(3), np.array([1.0, 2.0, 3.0]))
    return fd.Chain([fd.RationalQuadraticSpline((3,)), fd.to_support(box)])


OF_ONE_DIMENSION = {"every parameter has an effect": "one dimension depends on no other"}
ON_A_SIMPLEX = {"finite differences of the inverse": "a step would leave the simplex"}

LAYERS = (
    Entry(
        "layer:affine",
        fd.Affine,
        lambda key: fd.Affine(jnp.array([1.0, -2.0, 0.5]), jnp.array([0.5, 1.0, 2.0])),
    ),
    Entry(
        "layer:affine_scalar",
        fd.Affine,
        lambda key: fd.Affine(jnp.array(1.0), jnp.array(0.5)),
    ),
    Entry(
        "layer:elementwise_matrix",
        fd.Elementwise,
        lambda key: fd.Elementwise((2, 3), transformer=SPLINE),
    ),
    Entry(
        "layer:elementwise_composed",
        fd.Elementwise,
        lambda key: fd.Elementwise(
            (3,), transformer=Compose((SPLINE, ShiftScale(scale="exp"), SPLINE))
        ),
    ),
    Entry(
        "layer:spline",
        fd.RationalQuadraticSpline,
        lambda key: fd.RationalQuadraticSpline((3,), num_bins=5, bound=2.5),
    ),
    Entry(
        "layer:spline_scalar",
        fd.RationalQuadraticSpline,
        lambda key: fd.RationalQuadraticSpline((), num_bins=5),
    ),
    Entry(
        "layer:spline_circular",
        fd.Elementwise,
        lambda key: fd.Elementwise((3,), transformer=CIRCULAR),
    ),
    Entry("layer:permute", fd.Permute, lambda key: fd.Permute((2, 0, 3, 1))),
    Entry("layer:permute_matrix", fd.Permute, lambda key: fd.Permute((2, 0, 3, 1), (2, 2))),
    Entry("layer:reverse", fd.Reverse, lambda key: fd.Reverse((3,))),
    Entry("layer:lu_linear", fd.LULinear, lambda key: fd.LULinear(key, (4,))),
    Entry(
        "layer:lu_linear_rotation",
        fd.LULinear,
        lambda key: fd.LULinear(key, (4,), start="rotation"),
    ),
    Entry(
        "layer:lu_linear_1d",
        fd.LULinear,
        lambda key: fd.LULinear(key, (1,)),
        exempt=OF_ONE_DIMENSION,
    ),
    Entry("layer:lu_linear_matrix", fd.LULinear, lambda key: fd.LULinear(key, (2, 2))),
    Entry(
        "layer:householder",
        fd.Householder,
        lambda key: fd.Householder(key, (4,), num_reflections=3),
    ),
    Entry("layer:act_norm", fd.ActNorm, lambda key: fd.ActNorm((3,))),
    Entry("layer:affine_coupling", fd.AffineCoupling, lambda key: coupling(key, 5)),
    Entry(
        "layer:affine_coupling_flipped",
        fd.AffineCoupling,
        lambda key: coupling(key, 5, flip=True),
    ),
    Entry(
        "layer:affine_coupling_exp",
        fd.AffineCoupling,
        lambda key: coupling(key, 2, scale="exp"),
    ),
    Entry(
        "layer:affine_coupling_sigmoid",
        fd.AffineCoupling,
        lambda key: coupling(key, 3, scale="sigmoid"),
    ),
    Entry(
        "layer:affine_coupling_checkerboard",
        fd.AffineCoupling,
        lambda key: fd.AffineCoupling(key, (2, 3), mask="checkerboard", **SMALL),
    ),
    Entry(
        "layer:affine_coupling_channel",
        fd.AffineCoupling,
        lambda key: fd.AffineCoupling(key, (2, 1, 3), mask="channel", **SMALL),
    ),
    Entry(
        "layer:affine_coupling_given_mask",
        fd.AffineCoupling,
        lambda key: fd.AffineCoupling(key, (2, 2), mask=np.array([[1, 0], [0, 0]]), **SMALL),
    ),
    Entry(
        "layer:additive_coupling",
        fd.Coupling,
        lambda key: fd.Coupling(key, (4,), transformer=Additive(), **SMALL),
    ),
    Entry(
        "layer:spline_coupling",
        fd.SplineCoupling,
        lambda key: fd.SplineCoupling(key, (4,), num_bins=5, **SMALL),
    ),
    Entry(
        "layer:spline_coupling_affine",
        fd.Coupling,
        lambda key: fd.Coupling(key, (4,), transformer=Compose((SPLINE, ShiftScale())), **SMALL),
    ),
    Entry(
        "layer:spline_coupling_circular",
        fd.Coupling,
        lambda key: fd.Coupling(key, (3,), transformer=CIRCULAR, **SMALL),
    ),
    Entry(
        "layer:spline_coupling_residual",
        fd.SplineCoupling,
        lambda key: fd.SplineCoupling(key, (4,), mask="alternating", residual=True, **SMALL),
    ),
    Entry("layer:coupling_equinox", fd.Coupling, equinox_coupling),
    Entry("layer:autoregressive", fd.MaskedAutoregressive, autoregressive),
    Entry(
        "layer:autoregressive_1d",
        fd.MaskedAutoregressive,
        lambda key: autoregressive(key, size=1),
        exempt=OF_ONE_DIMENSION,
    ),
    Entry(
        "layer:autoregressive_order",
        fd.MaskedAutoregressive,
        lambda key: autoregressive(key, order=(2, 0, 3, 1)),
    ),
    Entry(
        "layer:autoregressive_spline",
        fd.MaskedAutoregressive,
        lambda key: autoregressive(key, transformer=SPLINE),
    ),
    Entry(
        "layer:autoregressive_residual",
        fd.MaskedAutoregressive,
        lambda key: autoregressive(key, residual=True),
    ),
    Entry(
        "layer:autoregressive_matrix",
        fd.MaskedAutoregressive,
        lambda key: fd.MaskedAutoregressive(key, (2, 2), **SMALL),
    ),
    Entry("layer:inverse", fd.Inverse, lambda key: fd.Inverse(coupling(key))),
    Entry(
        "layer:inverse_autoregressive",
        fd.Inverse,
        lambda key: fd.Inverse(autoregressive(key)),
    ),
    Entry(
        "layer:chain",
        fd.Chain,
        lambda key: fd.Chain([coupling(key), fd.Reverse((4,)), fd.LULinear(key, (4,))]),
    ),
    Entry(
        "layer:chain_scalar_after_vector",
        fd.Chain,
        lambda key: fd.Chain([fd.LULinear(key, (3,)), ExpTransform()]),
    ),
    Entry("layer:chain_foreign", fd.Chain, foreign_chain),
    Entry("layer:foreign", fd.Foreign, lambda key: fd.Foreign(ExpTransform())),
    Entry("layer:wrapper", Doubled, lambda key: Doubled(fd.AffineCoupling(key, (3,), **SMALL))),
    Entry("layer:repeat", fd.Repeat, lambda key: fd.Repeat(key, coupling, 3)),
    Entry(
        "layer:repeat_checkpoint",
        fd.Repeat,
        lambda key: fd.Repeat(key, coupling, 3, memory="checkpoint"),
    ),
    Entry(
        "layer:repeat_chain",
        fd.Repeat,
        lambda key: fd.Repeat(
            key, lambda k: fd.Chain([fd.SplineCoupling(k, (3,), **SMALL), fd.LULinear(k, (3,))]), 2
        ),
    ),
    Entry(
        "layer:support_interval",
        fd.Support,
        lambda key: fd.to_support(constraints.interval(-1.0, 3.0)),
    ),
    Entry(
        "layer:support_positive",
        fd.Support,
        lambda key: fd.to_support(constraints.positive),
    ),
    Entry(
        "layer:support_simplex",
        fd.Support,
        lambda key: fd.to_support(constraints.simplex),
        exempt=ON_A_SIMPLEX,
    ),
    Entry(
        "layer:concatenated",
        fd.Concatenated,
        lambda key: fd.Concatenated(
            [coupling(key, 2), fd.Elementwise((1, 2), transformer=SPLINE), ExpTransform()],
            [(2,), (1, 2), ()],
        ),
    ),
    Entry("layer:remainder", Remainder, remainder),
    Entry(
        "layer:conditioned",
        fd.Conditioned,
        lambda key: fd.Conditioned(coupling(key, context_shape=(2,)), jnp.array([0.3, -0.2])),
    ),
    Entry("layer:pixel_logit", fd.PixelLogit, lambda key: fd.PixelLogit((2, 3))),
    Entry("layer:pixel_logit_scaled", fd.Chain, pixel_logit),
    Entry("layer:chain_to_support", fd.Chain, chain_to_support),
)
