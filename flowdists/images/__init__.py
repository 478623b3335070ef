"""Images: layers, networks and recipes; levels of pixels; latents, inpainting, manipulation."""

from flowdists.images.dequantization import VariationalDequantizer, image_log_prob
from flowdists.images.discrete import DiscreteImages
from flowdists.images.fit_dequantized import DequantizedFit, fit_dequantized
from flowdists.images.inpainting import inpaint, inpainting_model
from flowdists.images.latents import decode, encode
from flowdists.images.layers.conv1x1 import InvertibleConv1x1
from flowdists.images.layers.coupling import ConvCoupling, SplitPrior
from flowdists.images.layers.multiscale import MultiScale
from flowdists.images.layers.pixel_logit import PixelLogit
from flowdists.images.layers.squeeze import Squeeze
from flowdists.images.layers.top_prior import TopPrior
from flowdists.images.manipulation import attribute_direction, interpolate, move
from flowdists.images.networks.conv_net import ConvNet, ResidualConvNet, ZeroConv
from flowdists.images.networks.convolution import Conv
from flowdists.images.pixels import bits_per_dim, dequantize, from_uint8, reduce_bits, to_uint8
from flowdists.images.recipes.glow import GLOW_SIZES, Glow, glow_step
from flowdists.images.recipes.realnvp_image import RealNVPImage
from flowdists.images.sampling import reconstruct, sample_from_noise

__all__ = [
    "GLOW_SIZES",
    "Conv",
    "ConvCoupling",
    "ConvNet",
    "DequantizedFit",
    "DiscreteImages",
    "Glow",
    "InvertibleConv1x1",
    "MultiScale",
    "PixelLogit",
    "RealNVPImage",
    "ResidualConvNet",
    "SplitPrior",
    "Squeeze",
    "TopPrior",
    "VariationalDequantizer",
    "ZeroConv",
    "attribute_direction",
    "bits_per_dim",
    "decode",
    "dequantize",
    "encode",
    "fit_dequantized",
    "from_uint8",
    "glow_step",
    "image_log_prob",
    "inpaint",
    "inpainting_model",
    "interpolate",
    "move",
    "reconstruct",
    "reduce_bits",
    "sample_from_noise",
    "to_uint8",
]
