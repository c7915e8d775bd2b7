"""One tiny trained-enough model and its exported files, made once for the tests of this room."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from compress.data.dataset import Dataset
from compress.data.load import load_data
from compress.model.folder import Task, save_model
from compress.model.load import ModelSpec, load_model
from compress.model.slicing import KeptBlock, KeptUnits, slice_vit
from compress.model.vit import SlicedViT
from export.exporter import export_model
from export.settings import ExportSettings
from runtime import Artifact, Preprocessing

SPEC = Preprocessing(32, 32, 1, (0.5,), (0.5,), "bicubic", "stretch")
OVERRIDES = {"embed_dim": 48, "depth": 2, "num_heads": 3}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_data("digits")


def task_for(data: Dataset, *, trained: bool = True) -> Task:
    return Task("digits", 0, None, SPEC, data.class_names, "a model made by a test", trained)


def uneven(model: SlicedViT) -> SlicedViT:
    """Slices ``model`` to widths that differ from block to block and from head to head."""
    plan = model.plan
    blocks = []
    for i, block in enumerate(plan.blocks):
        heads = tuple(range(block.num_heads - i))
        qk = tuple(tuple(range(h % 2, block.qk_dim, 2))[:8] for h in heads)
        v = tuple(tuple(range(block.v_dim - 8 * (1 - i))) for _ in heads)
        blocks.append(KeptBlock(heads, qk, v, tuple(range(3, 3 + 40 + 8 * i))))
    return slice_vit(model, KeptUnits(tuple(range(2, 42)), tuple(blocks)))


@dataclass(frozen=True)
class Exported:
    """A sliced model, and its files on disk."""

    model: SlicedViT
    folder: Path
    artifacts: list[Artifact]

    def file(self, suffix: str) -> Path:
        return self.folder / f"tiny.{suffix}"


@pytest.fixture(scope="session")
def sliced() -> SlicedViT:
    return uneven(load_model(ModelSpec("vit_tiny_patch16_224", 32, 8, 1, overrides=OVERRIDES), 10))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, sliced: SlicedViT, digits: Dataset) -> Exported:
    folder = tmp_path_factory.mktemp("artifacts")
    task = task_for(digits, trained=False)
    settings = ExportSettings(calibration_images=8, verify_images=100)
    return Exported(sliced, folder, export_model(sliced, task, digits, folder, "tiny", settings))


def model_folder(folder: Path, model: SlicedViT, data: Dataset) -> Path:
    save_model(folder, model, task_for(data))
    return folder
