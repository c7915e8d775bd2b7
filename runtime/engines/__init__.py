"""The programs that execute model files, by name, and how a file is opened in one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from runtime.errors import ArtifactError, UnsupportedTargetError
from runtime.formats import FORMATS, Format, format_of
from runtime.registry import Registry

from .base import DeviceEngine, Engine, EngineDevice, EngineKind, EngineName

# ONNX Runtime's Linux builds otherwise report models and use over the network, and leave files behind
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

ENGINES: Registry[EngineKind] = Registry(
    "engine",
    {
        "litert": "runtime.engines.litert:LITERT",
        "litert-gpu": "runtime.engines.litert_gpu:LITERT_GPU",
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
        engine: one of ``ENGINES`` that reads the format; by default the one of the format, or else one that serves the
            device.
        threads: worker threads, at least 1. In torch they are the whole process's (see ``TorchEngine``).
        device: one that the engine serves: ``cpu``; ``cuda`` for ``.onnx`` and ``.pt2`` files; ``tensorrt`` for
            ``.onnx`` files; ``gpu`` for ``.tflite`` files, which the engine ``litert-gpu`` then runs.

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
    form = format_of(path)
    name = engine or _default_engine(form, device)
    # the time of opening is measured, so no engine but the one that is needed is imported here
    kind = ENGINES[name] if name in ENGINES else None
    if kind is None or form.name not in kind.formats or not _serves(kind, device, resident):
        raise _refusal(path, form, kind, device, resident, name)
    if not path.is_file():
        raise ArtifactError(f"The model file {path} does not exist")
    return kind.open(path, threads, device)


def _default_engine(form: Format, device: EngineDevice) -> EngineName:
    """Returns the engine of a format, or the first other one that reads it and serves a device which that does not."""
    if device in ENGINES[form.engine].devices:
        return form.engine
    others = (kind.name for kind in ENGINES.values() if form.name in kind.formats and device in kind.devices)
    return next(others, form.engine)


def _serves(kind: EngineKind, device: EngineDevice, resident: bool) -> bool:
    return device in kind.devices and (kind.resident or not resident)


def _refusal(
    path: Path, form: Format, kind: EngineKind | None, device: EngineDevice, resident: bool, name: EngineName
) -> UnsupportedTargetError:
    """Returns why a file cannot be opened: there is no such device or engine, or they do not go together."""
    if device not in devices():
        return UnsupportedTargetError("No such device", expected=", ".join(devices()), got=device)
    if kind is None or form.name not in kind.formats:
        readers = [one.name for one in ENGINES.values() if form.name in one.formats]
        what = f"{path.name} does not run on that engine"
        return UnsupportedTargetError(what, expected=" or ".join(readers), got=name)
    served = [FORMATS[own] for one in ENGINES.values() if _serves(one, device, resident) for own in one.formats]
    return UnsupportedTargetError(
        f"{path.name} does not run on {device}",
        expected=f"a {' or '.join(own.suffix for own in served)} file",
        fix=f"Export it again with --formats {','.join(own.name for own in served)}",
    )


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
