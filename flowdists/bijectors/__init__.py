"""Invertible layers, each a NumPyro transform, a distrax bijector and a pytree."""
