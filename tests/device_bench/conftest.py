"""A synthetic but valid run folder, and a small real model file."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_bench.documents.figures import MemoryUse
from device_bench.documents.measurement import Measurement, Sampling
from device_bench.documents.results import BENCH_DOCUMENT, BenchResult, FileResult
from device_bench.machine.state import MachineState
from runtime import (
    METRICS_DOCUMENT,
    PLAN_DOCUMENT,
    Artifact,
    BlockPlan,
    Calibration,
    EpochRecord,
    ModelMetrics,
    Parity,
    Preprocessing,
    Provenance,
    ShapePlan,
    TensorSpec,
    macs,
    params,
    write_artifact,
)

BASELINE = ShapePlan(
    img_size=(96, 96),
    patch_size=(8, 8),
    in_chans=3,
    num_classes=10,
    embed_dim=192,
    blocks=(BlockPlan(3, 64, 64, 768),) * 12,
    attn_scale=0.125,
)

SLICED = replace(
    BASELINE,
    embed_dim=168,
    blocks=tuple(
        BlockPlan(heads, qk, v, mlp)
        for heads, qk, v, mlp in zip(
            (3, 3, 3, 2, 2, 3, 2, 2, 1, 2, 2, 1),
            (48, 56, 40, 40, 32, 32, 24, 32, 24, 16, 24, 16),
            (56, 56, 64, 48, 48, 40, 48, 40, 32, 40, 48, 32),
            (512, 576, 448, 384, 416, 320, 352, 288, 256, 224, 192, 160),
            strict=True,
        )
    ),
)

MACHINE = MachineState(
    board=None,
    cpu_model="Example Core 9 & <co>",
    logical_cores=4,
    governor="schedutil",
    clocks_hz=(1.5e9, 2.4e9, 2.4e9, 1.5e9),
    temperature_c=None,
    load_average=(0.42, 0.5, 0.61),
    os="Linux 6.1",
    architecture="x86_64",
    python="3.12.4",
    versions={"numpy": "2.1.0", "ai-edge-litert": "2.1.0", "onnxruntime": "1.22.0"},
)

# name, precision, plan, median latency in ms, top-1, SQNR in dB, agreement
FILES = (
    ("baseline.fp32.tflite", "fp32", BASELINE, 21.4, 0.982, 118.0, 1.0),
    ("digits.fp32.tflite", "fp32", SLICED, 10.6, 0.978, 117.2, 1.0),
    ("digits.int8.tflite", "int8", SLICED, 6.9, 0.977, 31.4, 0.996),
    ("digits.int8-full.tflite", "int8-full", SLICED, 6.1, 0.969, 22.8, 0.981),
    ("digits.onnx", "fp32", SLICED, 9.8, 0.978, 121.6, 1.0),
    ("digits.int8.onnx", "int8", SLICED, 7.7, 0.976, 30.2, 0.994),
)


def _latency(seed: int, median_ms: float, count: int = 200) -> Measurement:
    rng = np.random.default_rng(seed)
    weather = np.random.default_rng(1).gamma(2.0, 0.02, count)  # slow spells hit all files alike
    values = median_ms * 1e-3 * (0.96 + weather + rng.gamma(1.5, 0.01, count))
    values[17] *= 6
    warmup = median_ms * 1e-3 * (1 + np.exp(-np.arange(12.0)))
    return Measurement("latency", "s", tuple(values.tolist()), tuple(warmup.tolist()), steady=True)


def _artifact(name: str, content: bytes, plan: ShapePlan, parity: Parity, precision: str) -> Artifact:
    suffix = name.rsplit(".", 1)[1]
    layout, shape = ("NCHW", (-1, 3, 96, 96)) if suffix == "onnx" else ("NHWC", (1, 96, 96, 3))
    return Artifact(
        file=name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        format=suffix,
        precision=precision,
        recipe={"fp32": "float", "int8": "dynamic_wi8_afp32", "int8-full": "static_wi8_ai8"}[precision],
        plan=plan,
        preprocessing=Preprocessing(96, 96, 3, (0.5,) * 3, (0.5,) * 3),
        input=TensorSpec("image", shape, "float32", layout),
        output=TensorSpec("logits", (shape[0], 10), "float32", "NC"),
        class_names=tuple(f"class {i}" for i in range(10)),
        parity=parity,
        calibration=Calibration("digits", "train", 128, 0) if precision == "int8-full" else None,
        provenance=Provenance("0.1.0", "vit_tiny | <sliced>", "ab" * 32, {"onnx": "1.18.0", "litert-torch": "0.10.0"}),
    )


def _epochs(count: int, start: float, end: float, top1: float) -> tuple[EpochRecord, ...]:
    records = []
    for epoch in range(1, count + 1):
        left = float(np.exp(-3 * (epoch - 1) / count))
        loss = end + (start - end) * left
        records.append(EpochRecord(epoch, loss, loss * 1.08 + 0.03, top1 - 0.3 * left))
    return tuple(records)


def bench_result(run: Path) -> BenchResult:
    """Returns a bench of every file in the artifacts folder of ``run``."""
    results = []
    for seed, (name, precision, _, median_ms, *_) in enumerate(FILES):
        content = (run / "artifacts" / name).read_bytes()
        results.append(
            FileResult(
                file=name,
                sha256=hashlib.sha256(content).hexdigest(),
                size_bytes=len(content),
                precision=precision,
                engine="litert" if name.endswith("tflite") else "onnxruntime",
                engine_version="2.1.0",
                threads=1,
                batch=1,
                measurements=(_latency(seed, median_ms),),
                memory=MemoryUse(61_000_000 + 900_000 * int(median_ms), 31_000_000)
                if precision != "int8-full"
                else MemoryUse(None, None, "The process was stopped after 120 s without an answer"),
            )
        )
    after = replace(MACHINE, load_average=(0.97, 0.66, 0.64), clocks_hz=(2.4e9,) * 4)
    return BenchResult("cpu", "2025-01-02T03:04:05+00:00", "0.1.0", 0, Sampling(), MACHINE, after, files=tuple(results))


def make_run(run: Path, shrink: int = 200) -> Path:
    """Fills ``run`` with a whole run, its files ``shrink`` times smaller than real, and returns it."""
    stages = (
        ("baseline", BASELINE, 0.983, _epochs(12, 2.1, 0.04, 0.98)),
        ("sliced", SLICED, 0.979, _epochs(8, 0.9, 0.05, 0.976)),
    )
    for name, plan, top1, epochs in stages:
        PLAN_DOCUMENT.write(run / name / "plan.json", plan)
        metrics = ModelMetrics(params(plan), macs(plan), 4 * params(plan) + 2048, top1, 1000, top1 - 0.002, epochs)
        METRICS_DOCUMENT.write(run / name / "metrics.json", metrics)
        (run / name / "model.safetensors").write_bytes(b"weights")
    (run / "artifacts").mkdir()
    for name, precision, plan, _, top1, sqnr_db, agreement in FILES:
        content = name.encode() * (params(plan) * (4 if precision == "fp32" else 1) // shrink // len(name))
        file = run / "artifacts" / name
        file.write_bytes(content)
        max_abs = 18 * 10 ** (-sqnr_db / 20)
        parity = Parity(500, max_abs, max_abs / 18, sqnr_db, agreement, top1, 0.978)
        write_artifact(file, _artifact(name, content, plan, parity, precision))
    BENCH_DOCUMENT.write(run / "bench" / "cpu.json", bench_result(run))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "digits")


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """A classifier ``relu(x) @ w`` with a free batch: (N, 4) float32 to (N, 3)."""
    return write_onnx(tmp_path / "tiny.onnx", ("N", 4))


def write_onnx(path: Path, shape: tuple[int | str, ...]) -> Path:
    """Writes a one-layer ONNX classifier whose input has ``shape`` and returns its path."""
    from onnx import TensorProto, checker, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (shape[0], 3))],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
