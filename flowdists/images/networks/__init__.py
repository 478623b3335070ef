"""Convolutional networks: the conditioners of layers on images."""

from flowdists.images.networks.conv_net import ConvNet, ResidualConvNet, ZeroConv
from flowdists.images.networks.convolution import Conv

__all__ = ["Conv", "ConvNet", "ResidualConvNet", "ZeroConv"]
