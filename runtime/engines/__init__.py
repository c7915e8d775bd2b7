"""Opens an exported file in the program that executes it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from runtime.artifact import SUFFIXES
from runtime.errors import ArtifactError, UnsupportedTargetError

from .base import Device, DeviceEngine, Engine, EngineName
from .litert import LiteRtEngine
from .onnxruntime import OnnxRuntimeEngine
from .torch import TorchEngine

DEFAULT_ENGINES: dict[str, EngineName] = {"tflite": "litert", "onnx": "onnxruntime", "torch": "torch"}


def open_engine(path: Path, engine: EngineName | None = None, threads: int = 1, device: Device = "cpu") -> Engine:
    """Loads a model file into the engine for its format, without looking for a manifest.

    Args:
        path: a ``.tflite``, ``.onnx`` or ``.pt2`` file.
        engine: ``litert``, ``onnxruntime`` or ``torch``; by default the one for the format.
        threads: worker threads, at least 1. In torch they are the whole process's (see ``TorchEngine``).
        device: ``cpu``; ``cuda`` for ``.onnx`` and ``.pt2`` files; ``tensorrt`` for ``.onnx`` files.

    Raises:
        UnsupportedTargetError: no such engine or device, or it does not read this format, or no threads, or there is
            no GPU. Nothing ever falls back to the CPU.
        MissingExtraError: the engine is not installed.
        ArtifactError: the file cannot be loaded.
    """
    if device != "cpu":
        return open_device_engine(path, engine, threads, device)
    wanted = _engine_for(path, engine, threads)
    if wanted == "litert":
        return LiteRtEngine(path, threads)
    return OnnxRuntimeEngine(path, threads) if wanted == "onnxruntime" else TorchEngine(path, threads)


def open_device_engine(
    path: Path, engine: EngineName | None = None, threads: int = 1, device: Device = "cuda"
) -> DeviceEngine:
    """Does what ``open_engine`` does, with an engine that can keep tensors where it computes.

    Args:
        path: a ``.onnx`` or ``.pt2`` file.
        engine: ``onnxruntime`` or ``torch``; by default the one for the format.
        threads: worker threads, at least 1.
        device: as in ``open_engine``.

    Raises:
        UnsupportedTargetError: as in ``open_engine``; and for ``.tflite`` files.
        MissingExtraError: the engine is not installed.
        ArtifactError: the file cannot be loaded.
    """
    if device not in get_args(Device):
        raise UnsupportedTargetError("No such device", expected=", ".join(get_args(Device)), got=device)
    wanted = _engine_for(path, engine, threads)
    if wanted == "litert" or (wanted == "torch" and device == "tensorrt"):
        expected = "a .onnx file" if device == "tensorrt" else "a .onnx or .pt2 file"
        raise UnsupportedTargetError(
            f"{path.name} does not run on {device}", expected=expected, fix="Export it again with --formats onnx,torch"
        )
    return OnnxRuntimeEngine(path, threads, device) if wanted == "onnxruntime" else TorchEngine(path, threads, device)


def _engine_for(path: Path, engine: EngineName | None, threads: int) -> EngineName:
    if threads < 1:
        raise UnsupportedTargetError("threads must be at least 1", got=threads)
    if path.suffix not in SUFFIXES:
        raise ArtifactError(f"{path} is not a model file", expected="a .onnx or .tflite file, or a .pt2 archive")
    if not path.is_file():
        raise ArtifactError(f"The model file {path} does not exist")
    wanted = DEFAULT_ENGINES[SUFFIXES[path.suffix]]
    if engine is not None and engine != wanted:
        raise UnsupportedTargetError(f"{path.name} does not run on that engine", expected=wanted, got=engine)
    return wanted


__all__ = ["DEFAULT_ENGINES", "Device", "DeviceEngine", "Engine", "EngineName", "open_device_engine", "open_engine"]
