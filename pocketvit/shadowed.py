"""Checks at import that no folder or file hides a package of PocketViT; imports none of the packages."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("runtime", "compress", "export", "device_bench")


class ShadowedPackageError(ImportError):
    """A package of PocketViT cannot be imported because another one has its name.

    Not of the tree in ``runtime.errors``, which may be the one that is hidden.
    """


def check_packages() -> None:
    """Checks that Python finds PocketViT's packages where PocketViT is, and nothing else of their names.

    Raises:
        ShadowedPackageError: something else is found first.
        SystemExit: the same, where this is the command line: with exit code 2 and no traceback.
    """
    home = Path(__file__).resolve().parent.parent
    for name in _PACKAGES:
        own = home / name / "__init__.py"
        found = _found(name)
        if found is None or not own.is_file() or found.resolve() == own:
            continue
        other = found.parent if found.name == "__init__.py" else found
        text = (
            f"PocketViT's package '{name}' is hidden by {other}, which Python finds first. "
            f"Expected {own.parent}. "
            "Rename that folder or file, or start Python in another folder."
        )
        program = Path(sys.argv[0]).name if sys.argv else ""
        if program in ("-m", "pocketvit"):
            sys.stderr.write(f"error: {text}\n")
            raise SystemExit(2)
        raise ShadowedPackageError(text, name=name, path=str(other))


def _found(name: str) -> Path | None:
    """Returns the file that ``import NAME`` runs or has run; None where there is none."""
    try:
        spec = find_spec(name)
    except ValueError:  # a module that was put there by hand
        spec = None
    origin = getattr(spec, "origin", None) or getattr(sys.modules.get(name), "__file__", None)
    return Path(origin) if origin else None
