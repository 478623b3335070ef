"""Convolutional networks: the conditioners of layers on images."""
