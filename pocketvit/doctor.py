"""What this machine and installation can do, what is missing, and how to get it."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

PACKAGES = {
    "litert": ("numpy", "ai-edge-litert", "pillow", "typer", "rich"),
    "onnx": ("onnxruntime",),
    "compress": ("torch", "torchvision", "timm", "safetensors", "scikit-learn"),
    "export": ("litert-torch", "ai-edge-quantizer", "onnx", "onnxscript"),
    "bench": ("jinja2", "matplotlib"),
}


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
