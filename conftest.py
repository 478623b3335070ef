"""How JAX compiles for the tests, and the names that doctests may use as they are."""

import os
from importlib.metadata import version
from typing import Any

import pytest

# One thread for each test process: there are as many processes as cores.
_XLA_FLAGS = ["--xla_cpu_multi_thread_eigen=false"]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    # Half the time of compilation. Later versions of XLA have no other way to emit fused loops.
    _XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_XLA_FLAGS))


@pytest.fixture(autouse=True, scope="session")
def _public_names(doctest_namespace: dict[str, Any]) -> None:
    """Doctests see the public API, ``jax`` and ``jnp`` without importing them."""
    import jax

    import flowdists

    names = getattr(flowdists, "__all__", ())
    doctest_namespace.update({name: getattr(flowdists, name) for name in names})
    doctest_namespace.update(fd=flowdists, flowdists=flowdists, jax=jax, jnp=jax.numpy)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compile fast for the many small tests, and fast programs for the heavy ones."""
    import jax

    is_heavy = item.get_closest_marker("heavy") is not None
    jax.config.update("jax_disable_most_optimizations", not is_heavy)
    # Every operation of every program would carry the stack that it comes from.
    jax.config.update("jax_traceback_in_locations_limit", 0)
