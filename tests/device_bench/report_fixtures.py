"""A run folder in which everything that can be measured was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from device_bench.documents.figures import Accuracy, Energy, Failure, Peak, Startup, Throughput
from device_bench.documents.measurement import Measurement
from device_bench.documents.op_times import OpTimes, TimeRow, write_times
from device_bench.documents.results import BENCH_DOCUMENT, BenchResult, FileResult
from runtime import macs, read_artifact

PARTS = ("attn", "mlp", "norm1", "norm2")
OPERATORS = (
    "MatMul",
    "Gemm",
    "Softmax",
    "Gelu",
    "Add",
    "Reshape",
    "Transpose",
    "Concat",
    "Slice",
    "LayerNormalization",
)


def enrich(run: Path, *, classes: int = 10, energy: str = "measured", images: int = 500) -> BenchResult:
    """Adds to the CPU's bench in ``run`` whatever else can be measured, and times of parts; returns the bench."""
    path = run / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    files = tuple(_enriched(run, index, own, classes, energy, images) for index, own in enumerate(bench.files))
    peaks = tuple(
        Peak(engine, arithmetic, 1, values)
        for engine, arithmetic, values in (
            ("litert", "fp32", (98.1, 101.7, 100.2)),
            ("litert", "int8", (231.5, 240.9, 238.0)),
            ("onnxruntime", "fp32", (89.0, 91.3, 90.8)),
        )
    )
    failure = Failure("digits.fp16.onnx", "ONNX Runtime cannot load it: no kernel for <Gelu> in float16")
    notes = ("The machine had other work to do: load 1.6 on 4 cores before the first run.",)
    full = replace(bench, files=files, peaks=peaks, failures=(failure,), notes=notes)
    BENCH_DOCUMENT.write(path, full)
    for index, own in enumerate(files):
        write_times(run / "bench", op_times(own, index))
    return full


def op_times(own: FileResult, index: int = 0) -> OpTimes:
    """Returns times of the parts of a TFLite file, or of the operators of another."""
    share = np.random.default_rng(index).dirichlet(np.full(len(OPERATORS), 0.9))
    whole = float(np.median(own.latency.values)) if own.latency else 0.01
    if own.file.endswith("tflite"):
        names = ["embed", *(f"blocks.{block}.{part}" for block in range(12) for part in PARTS), "norm", "head"]
        weights = np.array(
            [{"attn": 4.0, "mlp": 5.0, "embed": 3.0}.get(name.rpartition(".")[2], 0.4) for name in names]
        )
        rows = tuple(TimeRow(n, float(w)) for n, w in zip(names, whole * weights / weights.sum(), strict=True))
        return OpTimes(own.file, own.sha256, "part", rows, whole, 40, 1, "the file cut short after each part")
    rows = tuple(TimeRow(name, float(whole * part)) for name, part in zip(OPERATORS, share, strict=True))
    return OpTimes(own.file, own.sha256, "op type", rows, whole, 40, 1, "ONNX Runtime's profiler")


def confusion_counts(seed: int, classes: int, images: int, top1: float) -> tuple[tuple[int, int, int], ...]:
    """Returns counts in which neighbours are taken for each other; files of near seeds err alike."""
    rng = np.random.default_rng(7)
    counts = np.diag(np.full(classes, images // classes))
    for index in range(round((1 - top1) * images) + seed % 3):
        true = int(rng.integers(classes)) if index % 3 else 1
        answer = (true + int(rng.integers(1, 3))) % classes
        if counts[true, true]:
            counts[true, true] -= 1
            counts[true, answer] += 1
    return tuple((int(i), int(j), int(counts[i, j])) for i, j in np.argwhere(counts))


def _enriched(run: Path, index: int, own: FileResult, classes: int, energy: str, images: int) -> FileResult:
    assert own.latency is not None
    artifact = read_artifact(run / "artifacts" / own.file)
    once = float(np.median(own.latency.values))
    top1 = artifact.parity.top1 or 0.97
    return replace(
        own,
        measurements=(_two_modes(own.latency),) if index == 2 else own.measurements,
        startup=Startup(tuple(0.031 + 0.004 * i for i in range(5)), tuple(once * (1.8 + 0.1 * i) for i in range(5))),
        throughput=tuple(
            Throughput(batch, streams, 1, tuple(factor * batch / once / batch for _ in range(3)))
            for batch, streams, factor in ((1, 1, 0.99), (8, 1, 1.12), (1, 2, 1.7 - 0.05 * index))
        ),
        macs=macs(artifact.plan),
        arithmetic="fp32" if own.precision == "fp32" else "int8",
        energy=_energy(energy, once),
        accuracy=Accuracy("digits", "test", classes, confusion_counts(index, classes, images, top1)),
        notes={
            2: ("Its times have two modes, 1.12× apart: a clock that steps, or cores of two kinds.",),  # noqa: RUF001
            4: ("It became 8 % slower from the first third to the last.", "Only 30 runs fitted into the time."),
        }.get(index, ()),
    )


def _two_modes(latency: Measurement) -> Measurement:
    values = tuple(value * (1.12 if i % 5 == 0 else 1.0) for i, value in enumerate(latency.values))
    return replace(latency, values=values)


def _energy(tier: str, once: float) -> Energy:
    if tier == "unavailable":
        return Energy("unavailable", reason="no counter of this machine can be read; run it as root")
    images = tuple(round(2.0 / once) + i for i in range(4))
    joules = tuple(2.0 * 4.1 + 9.5 * once * count * (1 + 0.01 * i) for i, count in enumerate(images))
    source = "RAPL package-0" if tier == "measured" else "codecarbon, TDP of 28 W"
    windows = tuple(2.0 + 0.01 * i for i in range(4))
    return Energy("measured" if tier == "measured" else "estimated", source, joules, windows, images, 4.1, 381.0, "DEU")
