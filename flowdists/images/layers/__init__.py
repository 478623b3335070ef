"""Invertible layers on images ``(height, width, channels)``."""
