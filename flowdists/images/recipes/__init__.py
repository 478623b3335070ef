"""Recipes of flows of images."""
