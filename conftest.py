"""The names that the doctests of the package and of the documentation may use as they are."""

from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="session")
def _public_names(doctest_namespace: dict[str, Any]) -> None:
    """Doctests see the public API, ``jax`` and ``jnp`` without importing them."""
    import jax

    import flowdists

    names = getattr(flowdists, "__all__", ())
    doctest_namespace.update({name: getattr(flowdists, name) for name in names})
    doctest_namespace.update(fd=flowdists, flowdists=flowdists, jax=jax, jnp=jax.numpy)
