"""Double precision for a block of a test, on every supported version of JAX."""

from contextlib import AbstractContextManager

import jax


def double_precision() -> AbstractContextManager[None]:
    """A context in which floats default to float64."""
    # Newer releases of JAX have the context manager at the top level, older ones in experimental.
    enable_x64 = getattr(jax, "enable_x64", None)
    if enable_x64 is None:
        from jax.experimental import enable_x64
    return enable_x64(True)
