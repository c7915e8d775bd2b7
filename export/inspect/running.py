"""Runs a file on seeded random images in its engine or in TensorFlow, in the process of a ``Sandbox``."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime import ArtifactError, MissingExtraError, open_engine, quiet
from runtime.engines import engine_of
from runtime.session import dequantise, quantise
from runtime.worker.child import Reporter

SEED = 0
Array = npt.NDArray[Any]
QParams = tuple[float, int] | None


@dataclass(frozen=True)
class GpuAnalysis:
    """The findings of TensorFlow's analyzer about TFLite's GPU delegate.

    Attributes:
        compatible: whether every operator looks compatible; None where the analyzer gave no answer.
        issues: number of incompatible operators by type and reason.
    """

    compatible: bool | None
    issues: dict[str, int]


@dataclass(frozen=True)
class Ran:
    """The outputs of a file for some images.

    Attributes:
        engine: name of the engine.
        version: of the engine.
        input_shape: of the file; -1 is free.
        input_dtype: of the file.
        output_shape: of the output for one image.
        output_dtype: of the file.
        finite: whether all outputs are finite.
        logits: one row for each image, in real units; None where they are not finite.
        gpu: analysis of the GPU delegate, by TensorFlow alone.
    """

    engine: str
    version: str
    input_shape: tuple[int, ...]
    input_dtype: str
    output_shape: tuple[int, ...]
    output_dtype: str
    finite: bool
    logits: tuple[tuple[float, ...], ...] | None
    gpu: GpuAnalysis | None = None


def run_seeded(path: Path, images: int, reporter: Reporter) -> Ran:
    """Runs ``images`` random images, one at a time, in the engine for the format.

    Raises:
        MissingExtraError: the engine is not installed.
        ArtifactError: it cannot load or run the file.
    """
    name = engine_of(path).title
    reporter.doing(name, "loading")
    engine = open_engine(path)
    reporter.doing(name, "running")
    shape = tuple(size if size > 0 else 1 for size in engine.input_shape)
    outputs = _answers(
        engine.run, shape, engine.input_dtype, engine.input_qparams, images, path, reporter, f"run in {name}"
    )
    return _ran(engine.name, engine.version, engine.input_shape, engine.input_dtype, outputs, engine.output_qparams)


def run_in_tensorflow(path: Path, images: int, reporter: Reporter) -> Ran:
    """Runs random images in TensorFlow's interpreter, and analyses compatibility with the GPU delegate.

    Raises:
        MissingExtraError: tensorflow is not installed.
        ArtifactError: it cannot load or run the file.
    """
    reporter.doing("TensorFlow", "loading")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with quiet():
            tensorflow: Any = import_module("tensorflow")
    except ImportError:
        raise MissingExtraError("tensorflow", "tensorflow") from None
    try:
        with quiet():
            interpreter = tensorflow.lite.Interpreter(model_path=str(path), num_threads=1)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"TensorFlow cannot load {path}", got=str(error)[:300]) from error
    inside, outside = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    shape = tuple(int(size) for size in inside["shape"])

    def run(batch: Array) -> Array:
        interpreter.set_tensor(inside["index"], batch)
        interpreter.invoke()
        answer: Array = interpreter.get_tensor(outside["index"])
        return answer

    reporter.doing("TensorFlow", "running")
    dtype = np.dtype(inside["dtype"])
    outputs = _answers(run, shape, dtype, _qparams(inside), images, path, reporter, "run in TensorFlow")
    reporter.doing("TensorFlow's analyzer", "reading")
    gpu = read_analysis(_analysis(tensorflow, path))
    return _ran("tensorflow", tensorflow.__version__, shape, dtype, outputs, _qparams(outside), gpu)


def _answers(
    run: Callable[[Array], Array],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    qparams: QParams,
    images: int,
    path: Path,
    reporter: Reporter,
    stage: str,
) -> Array:
    generator, outputs = np.random.default_rng(SEED), []
    for i in range(images):
        batch = generator.standard_normal(shape, dtype=np.float32)
        if qparams is not None:
            batch = quantise(batch, *qparams, dtype.name)
        try:
            outputs.append(run(batch.astype(dtype)))
        except Exception as error:  # ONNX Runtime's exceptions share no public base but Exception
            raise ArtifactError(f"{path} loads but does not run", got=str(error)[:300]) from error
        reporter.progress(stage, i + 1, images)
    return np.stack(outputs)


def _ran(
    engine: str,
    version: str,
    input_shape: tuple[int, ...],
    input_dtype: np.dtype[Any],
    outputs: Array,
    qparams: QParams,
    gpu: GpuAnalysis | None = None,
) -> Ran:
    dtype, shape = outputs.dtype.name, outputs.shape[1:]
    real = outputs if qparams is None else dequantise(outputs, *qparams)
    finite = bool(np.isfinite(real).all())
    rows = tuple(tuple(map(float, row)) for row in real.reshape(len(real), -1)) if finite else None
    return Ran(engine, version, input_shape, input_dtype.name, shape, dtype, finite, rows, gpu)


def _qparams(detail: dict[str, Any]) -> QParams:
    scale, zero_point = detail["quantization"]
    return (float(scale), int(zero_point)) if np.dtype(detail["dtype"]).kind in "iu" and scale > 0 else None


def _analysis(tensorflow: Any, path: Path) -> str:
    """Returns what the analyzer prints, by Python or by native code."""
    with tempfile.TemporaryFile() as scratch:
        saved = os.dup(1)
        try:
            os.dup2(scratch.fileno(), 1)
            tensorflow.lite.experimental.Analyzer.analyze(model_path=str(path), gpu_compatibility=True)
        except Exception as error:  # the analysis is optional
            return f"no analysis: {error}"
        finally:
            sys.stdout.flush()
            os.dup2(saved, 1)
            os.close(saved)
        scratch.seek(0)
        return scratch.read().decode(errors="replace")


def read_analysis(text: str) -> GpuAnalysis:
    """Returns what TensorFlow's analyzer printed about the GPU delegate.

    >>> read_analysis("Your model looks compatible with GPU delegate on TFLite")
    GpuAnalysis(compatible=True, issues={})
    """
    issues: Counter[str] = Counter()
    kind, bad = "", False
    for line in text.splitlines():
        if match := re.match(r"\s*Op#\d+ (\w+)", line):
            kind = match[1]
        elif match := re.match(r"\s*GPU COMPATIBILITY WARNING: (.*)", line):
            bad = True
            if not match[1].startswith("Subgraph#"):
                issues[f"{kind}: {match[1].strip()}" if kind else match[1].strip()] += 1
    if bad:
        return GpuAnalysis(False, dict(issues.most_common()))
    return GpuAnalysis(True if "looks compatible with GPU delegate" in text else None, {})
