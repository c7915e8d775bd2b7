"""The engines that files are linted for."""

from __future__ import annotations

from runtime.registry import Registry

from .base import LintedEngine

LINTED: Registry[LintedEngine] = Registry(
    "engine to lint for",
    {
        "cpu": "export.inspect.lint.cpu:CPU",
        "gpu": "export.inspect.lint.gpu:GPU",
        "static-int8": "export.inspect.lint.static_int8:STATIC_INT8",
    },
)
"""Engines by the value of ``--for``."""
