"""PocketViT: makes a Vision Transformer physically smaller, exports it, and proves what that bought.

The same jobs as the command line, as functions::

    import pocketvit
    summary = pocketvit.run(pocketvit.RunSettings(budget="macs=0.6"), "runs/mine")
    session = pocketvit.load("runs/mine/artifacts/mine.int8.tflite")

``__init__.pyi`` lists the public names. Each is imported when it is first used, so ``load`` works without torch.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any

from .shadowed import check_packages

check_packages()


@cache
def _modules() -> dict[str, str]:
    """Returns the module of every public name."""
    stub = ast.parse(files(__name__).joinpath("__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_modules())
    if name not in _modules():
        raise AttributeError(f"module 'pocketvit' has no attribute '{name}'")
    return getattr(import_module(_modules()[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_modules()})
