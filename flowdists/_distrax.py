"""Import distrax, or name the versions that do not fit: a new JAX can break an older distrax."""

from importlib.metadata import PackageNotFoundError, version


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


try:
    import distrax  # noqa: F401
except ModuleNotFoundError:
    raise
except Exception as error:
    versions = ", ".join(f"{n} {_installed(n)}" for n in ("distrax", "jax", "tfp-nightly"))
    raise ImportError(
        f"flowdists needs distrax, which cannot be imported with these versions: {versions}; it "
        f"fails with {type(error).__name__}: {error}. Upgrade distrax, or install an older jax."
    ) from error
