"""The programs that execute model files, by name, and how a file is opened in one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from runtime.errors import ArtifactError, UnsupportedTargetError
from runtime.formats import FORMATS, format_of
from runtime.registry import Registry

from .base import DeviceEngine, Engine, EngineDevice, EngineKind, EngineName

# ONNX Runtime's Linux builds otherwise report models and use over the network, and leave files behind
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

ENGINES: Registry[EngineKind] = Registry(
    "engine",
    {
        "litert": "runtime.engines.litert:LITERT",
        "onnxruntime": "runtime.engines.onnxruntime:ONNXRUNTIME",
        "torch": "runtime.engines.torch:TORCH",
    },
)
"""Engines by name."""


def engine_of(path: Path) -> EngineKind:
    """Returns the engine that runs a model file by default, by its suffix.

    Raises:
        ArtifactError: no format has this suffix.
    """
    return ENGINES[format_of(path).engine]


def devices() -> tuple[EngineDevice, ...]:
    """Returns every device that some engine computes on."""
    return tuple(dict.fromkeys(device for one in ENGINES.values() for device in one.devices))


def open_engine(path: Path, engine: EngineName | None = None, threads: int = 1, device: EngineDevice = "cpu") -> Engine:
    """Loads a model file into an engine, without reading a manifest.

    Args:
        path: a file of one of ``runtime.formats.FORMATS``.
        engine: one of ``ENGINES`` that reads the format; by default the one of the format.
        threads: worker threads, at least 1. In torch they are the whole process's (see ``TorchEngine``).
        device: one that the engine serves: ``cpu``; ``cuda`` for ``.onnx`` and ``.pt2`` files; ``tensorrt`` for
            ``.onnx`` files.

    Raises:
        UnsupportedTargetError: there is no such engine or device, the engine does not read this format, ``threads``
            is below 1, or there is no GPU. Nothing ever falls back to the CPU.
        MissingExtraError: the engine is not installed.
        ArtifactError: the file cannot be loaded.
    """
    return cast(Engine, _open(path, engine, threads, device, resident=False))


def open_device_engine(
    path: Path, engine: EngineName | None = None, threads: int = 1, device: EngineDevice = "cuda"
) -> DeviceEngine:
    """Loads a model file into an engine that can keep tensors where it computes.

    Args:
        path: a ``.onnx`` or ``.pt2`` file.
        engine: as in ``open_engine``.
        threads: worker threads, at least 1.
        device: as in ``open_engine``.

    Raises:
        UnsupportedTargetError: as in ``open_engine``; or the engine cannot keep tensors on a device.
        MissingExtraError: the engine is not installed.
        ArtifactError: the file cannot be loaded.
    """
    return cast(DeviceEngine, _open(path, engine, threads, device, resident=True))


def _open(path: Path, engine: EngineName | None, threads: int, device: EngineDevice, resident: bool) -> object:
    if threads < 1:
        raise UnsupportedTargetError("threads must be at least 1", got=threads)
    if device not in devices():
        raise UnsupportedTargetError("No such device", expected=", ".join(devices()), got=device)
    kind = _engine(path, engine)
    if not _serves(kind, device, resident):
        served = [FORMATS[name] for one in ENGINES.values() if _serves(one, device, resident) for name in one.formats]
        raise UnsupportedTargetError(
            f"{path.name} does not run on {device}",
            expected=f"a {' or '.join(form.suffix for form in served)} file",
            fix=f"Export it again with --formats {','.join(form.name for form in served)}",
        )
    return kind.open(path, threads, device)


def _serves(kind: EngineKind, device: EngineDevice, resident: bool) -> bool:
    return device in kind.devices and (kind.resident or not resident)


def _engine(path: Path, engine: EngineName | None) -> EngineKind:
    form = format_of(path)
    if not path.is_file():
        raise ArtifactError(f"The model file {path} does not exist")
    name = engine or form.engine
    readers = [one.name for one in ENGINES.values() if form.name in one.formats]
    if name not in readers:
        raise UnsupportedTargetError(
            f"{path.name} does not run on that engine", expected=" or ".join(readers), got=name
        )
    return ENGINES[name]


__all__ = [
    "ENGINES",
    "EngineDevice",
    "DeviceEngine",
    "Engine",
    "EngineKind",
    "EngineName",
    "devices",
    "engine_of",
    "open_device_engine",
    "open_engine",
]
