"""What this machine and installation can do, what is missing, and how to get it."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from runtime import MissingExtraError

PACKAGES = {
    "litert": {"numpy": "numpy", "ai-edge-litert": "ai_edge_litert", "pillow": "PIL", "typer": "typer", "rich": "rich"},
    "onnx": {"onnxruntime": "onnxruntime"},
    "compress": {
        "torch": "torch",
        "torchvision": "torchvision",
        "timm": "timm",
        "safetensors": "safetensors",
        "scikit-learn": "sklearn",
    },
    "export": {
        "onnx": "onnx",
    },
    "bench": {"jinja2": "jinja2", "matplotlib": "matplotlib"},
}
"""For each extra, its packages and the name each is imported by."""


@dataclass(frozen=True)
class Finding:
    """One thing the doctor looked at.

    Attributes:
        area: what it belongs to.
        name: of the thing.
        value: what was found, or None where it is missing.
        fix: what to do when it is missing.
    """

    area: str
    name: str
    value: str | None
    fix: str | None = None


def examine() -> list[Finding]:
    """Looks at Python, the machine, and every package of every extra."""
    findings = [
        Finding("machine", "python", platform.python_version()),
        Finding("machine", "system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        *_cpu(),
        Finding("pocketvit", "version", _version("pocketvit"), "pip install pocketvit"),
    ]
    for extra, packages in PACKAGES.items():
        for package in packages:
            findings.append(Finding(extra, package, _version(package), f"pip install 'pocketvit[{extra}]'"))
    return findings


def missing_extra(module: str) -> MissingExtraError | None:
    """Returns the error that says how to get ``module``, or None where it is no package of an extra."""
    for extra, packages in PACKAGES.items():
        for package, name in packages.items():
            if name == module.partition(".")[0]:
                return MissingExtraError(package, extra)
    return None


def _cpu() -> list[Finding]:
    from device_bench import machine_state

    state = machine_state()
    return [
        Finding("machine", "cpu", state.cpu_model or "unknown"),
        Finding("machine", "logical cores", str(state.logical_cores or "unknown")),
        Finding("machine", "isolated environment", str(sys.prefix != sys.base_prefix).lower()),
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
