"""Layers and recipes of image flows, with and without a context."""

import equinox as eqx
import jax
import jax.numpy as jnp

import flowdists as fd
from flowdists.transformers import Additive
from tests.table.record import Entry
from tests.table.sizes import SMALL_CONV, SPLINE


class _EquinoxConv(eqx.Module):
    """Channels first, as Equinox has them."""

    conv: eqx.nn.Conv2d

    def __call__(self, x):
        return jnp.moveaxis(jnp.tanh(self.conv(jnp.moveaxis(x, -1, 0))), 0, -1)


def equinox_conv_coupling(key: jax.Array) -> fd.Bijector:
    """A convolutional coupling with a foreign network."""
    network = _EquinoxConv(eqx.nn.Conv2d(1, 2, kernel_size=3, padding=1, key=key))
    return fd.ConvCoupling(key, (2, 2, 2), conditioner=network)


def conv_coupling(key: jax.Array, shape=(2, 2, 2), **options: object) -> fd.ConvCoupling:
    """A small convolutional coupling."""
    return fd.ConvCoupling(key, shape, **SMALL_CONV, **options)


def glow(key: jax.Array, shape: tuple[int, ...], steps: int, **options: object) -> fd.Bijector:
    """A small Glow of two scales."""
    sizes = {"num_scales": 2, "steps_per_scale": steps, **SMALL_CONV}
    return fd.Glow(key, shape, **sizes, **options).bijector


def real_nvp_image(key: jax.Array) -> fd.Bijector:
    """A small RealNVP of one scale."""
    sizes = {"num_scales": 1, "steps_per_scale": 2, **SMALL_CONV}
    return fd.RealNVPImage(key, (4, 4, 1), **sizes).bijector


IMAGE_LAYERS = (
    Entry("layer:act_norm_image", fd.ActNorm, lambda key: fd.ActNorm((2, 2, 2))),
    Entry("layer:squeeze", fd.Squeeze, lambda key: fd.Squeeze((4, 2, 3))),
    Entry("layer:squeeze_3", fd.Squeeze, lambda key: fd.Squeeze((3, 6, 1), factor=3)),
    Entry(
        "layer:conv_1x1",
        fd.InvertibleConv1x1,
        lambda key: fd.InvertibleConv1x1(key, (2, 3, 4)),
    ),
    Entry("layer:conv_coupling", fd.ConvCoupling, lambda key: conv_coupling(key, (3, 2, 3))),
    Entry(
        "layer:conv_coupling_flipped",
        fd.ConvCoupling,
        lambda key: conv_coupling(key, (2, 2, 3), flip=True),
    ),
    Entry(
        "layer:conv_coupling_checkerboard",
        fd.ConvCoupling,
        lambda key: conv_coupling(key, (2, 3, 2), mask="checkerboard", normalize=True),
    ),
    Entry(
        "layer:conv_coupling_additive",
        fd.ConvCoupling,
        lambda key: conv_coupling(key, transformer=Additive(), residual=True),
    ),
    Entry(
        "layer:conv_coupling_spline",
        fd.ConvCoupling,
        lambda key: conv_coupling(key, transformer=SPLINE, mask="checkerboard", flip=True),
    ),
    Entry("layer:conv_coupling_equinox", fd.ConvCoupling, equinox_conv_coupling),
    Entry("layer:split_prior", fd.SplitPrior, lambda key: fd.SplitPrior((2, 2, 3)), move=0.1),
    Entry("layer:top_prior", fd.TopPrior, lambda key: fd.TopPrior((2, 2, 3))),
    Entry("layer:multi_scale", fd.MultiScale, lambda key: glow(key, (4, 4, 1), 1), move=0.05),
    Entry("layer:glow", fd.MultiScale, lambda key: glow(key, (4, 4, 2), 2), move=0.05),
    Entry("layer:real_nvp_image", fd.MultiScale, real_nvp_image, move=0.1),
    Entry(
        "conditional:conv_coupling",
        fd.ConvCoupling,
        lambda key: conv_coupling(key, context_shape=(2,)),
    ),
    Entry(
        "conditional:split_prior",
        fd.SplitPrior,
        lambda key: fd.SplitPrior((2, 2, 2), context_shape=(3,)),
        move=0.1,
    ),
    Entry(
        "conditional:top_prior",
        fd.TopPrior,
        lambda key: fd.TopPrior((2, 2, 2), context_shape=(2, 2)),
    ),
    Entry(
        "conditional:glow",
        fd.Embedded,
        lambda key: glow(key, (4, 4, 1), 1, context_shape=(2,)),
        move=0.05,
    ),
)
