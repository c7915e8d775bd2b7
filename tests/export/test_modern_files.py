"""Integer, torch, microcontroller and GPU files of models with rotary positions, gates and inner norms."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.model.vit import SlicedViT
from export.compare import compare_logits, real_logits
from export.formats.micro import MICRO_KINDS, micro_graph
from export.formats.tflite import tflite_form, write_tflite
from export.formats.torch import torch_shapes, write_torch
from export.gpu.compare import FileKind, judge_gpu
from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.quantise.candidates import CandidateBuilder, Subject
from export.quantise.recipes import RECIPES
from export.writers.tflite import tflite_bytes
from runtime import open_engine
from runtime.gpu.adapter import Adapter
from runtime.gpu.drivers import GpuDriver
from runtime.gpu.run import GpuWorker
from tests.export.graph.modern import MODERN, modern_model

LEAST_DB = {
    "dynamic_wi8_afp32": 25,
    "static_wi8_ai8_float_islands": 20,
    "static_wi8_ai8_mse": 10,
    "static_wi8_ai8_mse_equalised": 10,
    "static_wi8_a16_qkv_a8": 15,
}
"""Least SQNR of a recipe's files; the weights are random, which is harder than trained ones."""


def images_for(count: int = 16) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(1).standard_normal((count, 32, 32, 3), dtype=np.float32)


def answers(model: SlicedViT, images: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    with torch.no_grad():
        found: np.ndarray = model(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()  # type: ignore[type-arg]
    return found


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name in LEAST_DB])
@pytest.mark.parametrize("name", ["sub-norms", "qk-rms-rope", "patch-norm-rms", "rope-per-head"])
def test_integer_files_are_near_the_float_model(name: str, recipe: str, tmp_path: Path) -> None:
    model, images = modern_model(MODERN[name]), images_for()
    wanted = answers(model, images)
    builder = CandidateBuilder(Subject(model, images, images, wanted, None), tmp_path, tflite_form())
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite_bytes(builder.quantised(RECIPES[recipe])))
    parity = compare_logits(real_logits(path, images), wanted, None, "none")
    assert parity.sqnr_db is not None
    assert parity.sqnr_db >= LEAST_DB[recipe]


@pytest.mark.parametrize("name", MODERN)
def test_torch_files_hold_the_same_model(name: str, tmp_path: Path) -> None:
    model, images = modern_model(MODERN[name]), images_for(2)
    path = tmp_path / "m.pt2"
    write_torch(model, path)
    got = open_engine(path).run(images.transpose(0, 3, 1, 2))
    assert np.abs(got - answers(model, images)).max() < 1e-5
    block = model.plan.blocks[0]
    assert torch_shapes(path)["blocks.0.attn.scores"][1] == block.num_heads


@pytest.mark.parametrize("name", MODERN)
def test_microcontrollers_have_every_operator(name: str) -> None:
    model = modern_model(MODERN[name])
    graph = micro_graph(vit_graph(model))
    assert {op.kind for op in graph.ops} <= set(MICRO_KINDS)
    if not model.plan.act.startswith("gelu"):
        images = torch.from_numpy(images_for(2)).double()
        got = run_graph(graph, images).numpy()
        assert np.abs(got - answers(model, images_for(2))).max() < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODERN)
def test_float_files_answer_on_the_gpu_as_on_the_cpu(
    name: str, software_gpu: tuple[GpuDriver, Adapter], gpu_worker: GpuWorker, tmp_path: Path
) -> None:
    model, images = modern_model(MODERN[name]), images_for(4)
    path = tmp_path / "m.tflite"
    write_tflite(model, path)
    found = judge_gpu(FileKind(False), gpu_worker.answers(path, images), software_gpu[1], answers(model, images))
    assert (found.whole, found.wrong) == (True, None)
    assert found.cosine is not None
    assert found.cosine >= 0.9999


GPU_RECIPES = ("dynamic_wi8_afp32", "static_wi8_ai8_float_islands", "static_wi8_ai8_mse")
ROUNDED = dict(zip(MODERN, itertools.cycle(GPU_RECIPES), strict=False))


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODERN)
def test_integer_files_are_as_near_to_the_float_model_on_the_gpu_as_on_the_cpu(
    name: str, software_gpu: tuple[GpuDriver, Adapter], gpu_worker: GpuWorker, tmp_path: Path
) -> None:
    model, images = modern_model(MODERN[name]), images_for()
    wanted = answers(model, images)
    builder = CandidateBuilder(Subject(model, images, images, wanted, None), tmp_path, tflite_form())
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite_bytes(builder.quantised(RECIPES[ROUNDED[name]])))
    found = judge_gpu(FileKind(True), gpu_worker.answers(path, images), software_gpu[1], wanted)
    assert (found.whole, found.wrong) == (True, None)
    assert found.sqnr_db is not None
    assert found.cpu_sqnr_db is not None
    assert found.sqnr_db >= found.cpu_sqnr_db - 1
