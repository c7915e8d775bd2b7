"""Classifiers of timm without a plan are exported whole, checked like our own files, and refused by name elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from compress.model.load import ModelSpec
from compress.model.other import is_other, load_other
from export.convert import kinds, write
from export.convert.kinds import check_convertible
from export.settings import ExportSettings
from pocketvit.pipeline.converting import prepare_conversion
from pocketvit.pipeline.run import run
from pocketvit.settings import RunSettings
from runtime import Artifact, DataError, MissingExtraError, ModelError, PlanError, load, macs, read_artifact
from tests.export.convert.conftest import NAME, SIDE

Export = Callable[..., list[Artifact]]


def network(checkpoint: Path) -> torch.nn.Module:
    own = timm.create_model(NAME, num_classes=10)
    own.load_state_dict(torch.load(checkpoint)["state_dict"])
    return own.eval()


def largest_difference(file: Path, checkpoint: Path) -> float:
    """Returns the largest difference of a file's logits from torch's, as a share of the largest logit."""
    images = np.random.default_rng(0).normal(size=(3, SIDE, SIDE, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = network(checkpoint)(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    found = load(file).logits(images)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.slow
def test_onnx_files_answer_as_torch_and_say_who_wrote_them(exported: Export, checkpoint: Path, tmp_path: Path) -> None:
    plain, small = exported("onnx", "onnx-int8")
    folder = tmp_path / "run" / "artifacts"
    assert largest_difference(folder / plain.file, checkpoint) < 1e-5
    assert largest_difference(folder / small.file, checkpoint) < 0.5
    assert small.recipe in ("ort_qdq", "ort_qdq_products")
    for own in (plain, small):
        assert own.plan is None
        assert own.counted is not None
        assert own.counted.architecture == NAME
        assert own.counted.converter.startswith("torch ")
        assert own.counted.num_classes == 10
        assert own.class_names == tuple("0123456789")
        assert own.preprocessing.mean == (0.485, 0.456, 0.406)
        assert read_artifact(folder / own.file) == own
    assert "onnxruntime" in (small.counted.converter if small.counted else "")
    assert not list(folder.glob("**/converted"))


@pytest.mark.usefixtures("converters")
@pytest.mark.slow
def test_tflite_files_answer_as_torch_and_say_who_wrote_them(
    exported: Export, checkpoint: Path, tmp_path: Path
) -> None:
    plain, small = exported("fp32", "int8")
    folder = tmp_path / "run" / "artifacts"
    assert largest_difference(folder / plain.file, checkpoint) < 1e-5
    assert largest_difference(folder / small.file, checkpoint) < 0.5
    assert small.size_bytes < 0.6 * plain.size_bytes
    assert small.recipe.startswith("aeq_")
    assert small.counted is not None
    assert "ai-edge-quantizer" in small.counted.converter
    assert plain.input.shape == (1, SIDE, SIDE, 3)


def test_costs_are_counted_on_the_model() -> None:
    whole = load_other(ModelSpec(NAME, img_size=SIDE)).plan
    own = timm.create_model(NAME)
    assert whole.params == sum(value.numel() for value in own.parameters())
    assert macs(whole) > macs(load_other(ModelSpec(NAME, img_size=SIDE // 2)).plan) > whole.num_classes


def test_models_with_a_plan_keep_their_own_writers() -> None:
    assert is_other(ModelSpec("swin_tiny_patch4_window7_224"))
    assert is_other(ModelSpec(NAME))
    assert not is_other(ModelSpec("vit_tiny_patch16_224"))


def test_a_checkpoint_of_another_model_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match=r"does not fit 'test_resnet'|has no classifier of 'test_resnet'"):
        load_other(ModelSpec("test_resnet", checkpoint=checkpoint))


def test_a_folder_of_timm_brings_its_classes_and_its_settings(checkpoint: Path, tmp_path: Path) -> None:
    save_file(network(checkpoint).state_dict(), tmp_path / "model.safetensors")
    settings = {"input_size": [3, SIDE, SIDE], "mean": [0.4] * 3, "std": [0.3] * 3, "crop_pct": 0.9}
    names = [f"bird {number}" for number in range(10)]
    config = {"architecture": NAME, "num_classes": 10, "label_names": names, "pretrained_cfg": settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    job = prepare_conversion(RunSettings(model=str(tmp_path), data="digits", kinds=("onnx",), threads=1))
    assert job.task.class_names == tuple(names)
    assert job.task.preprocessing.mean == (0.4,) * 3
    assert (job.model.plan.architecture, job.model.plan.img_size) == (NAME, (SIDE, SIDE))
    assert job.task.trained


def test_a_weight_that_is_not_a_number_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    held = torch.load(checkpoint)
    held["state_dict"]["conv_stem.weight"][0, 0, 0, 0] = torch.nan
    torch.save(held, tmp_path / "bad.pth")
    with pytest.raises(ModelError, match=r"conv_stem\.weight"):
        load_other(ModelSpec(NAME, checkpoint=tmp_path / "bad.pth"))


def test_pruning_is_refused_by_name_and_the_way_out_is_named(tmp_path: Path) -> None:
    settings = RunSettings(model=NAME, data="digits", budget="macs=0.5", pretrained=False)
    with pytest.raises(ModelError, match=r"the architecture EfficientNet.*pocketvit export"):
        run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_kinds_and_options_of_our_writers_are_refused(exported: Export, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no files of this kind.*Got int4"):
        exported("int4", "onnx")
    with pytest.raises(PlanError, match="--reset-head"):
        exported("onnx", reset_head=True)
    with pytest.raises(DataError, match="--int8-recipe"):
        check_convertible(replace(ExportSettings(("int8",)), int8_recipe="dynamic_wi8_afp32"), NAME)
    assert not (tmp_path / "run").exists()


def test_a_converter_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "find_spec", lambda name: None if name == "litert_torch" else object())
    check_convertible(ExportSettings(("onnx",)), NAME)
    with pytest.raises(MissingExtraError, match=r"litert-torch.*pocketvit\[convert\]"):
        check_convertible(ExportSettings(("fp32",)), NAME)


def test_a_converter_that_crashes_is_told_and_leaves_no_file(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_COMMAND", (sys.executable, "-c", "import os; os._exit(7)"))
    with pytest.raises(ModelError, match=r"did not finish 'test_efficientnet' \(torch .*--formats"):
        exported("onnx")
    assert not list((tmp_path / "run").glob("artifacts/*"))
