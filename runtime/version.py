"""Which PocketViT this is."""

from importlib.metadata import PackageNotFoundError, version


def tool_version() -> str:
    """Returns the installed version, or ``unknown`` where the package is run without being installed."""
    try:
        return version("pocketvit")
    except PackageNotFoundError:
        return "unknown"
