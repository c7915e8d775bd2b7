from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.data.splits import stratified
from compress.evaluate import logits_of
from compress.model.load import ModelSpec, load_model
from compress.model.vit import SlicedViT, build
from export.exporter import export_model
from export.formats import KINDS
from export.formats import onnx as onnx_format
from export.formats.onnx import write_onnx
from export.formats.tflite import write_tflite
from export.settings import ExportSettings
from runtime import DataError, ParityError, Preprocessing, decode, load, manifest_path, read_artifact, sha256_of

from .conftest import OVERRIDES, SPEC, Exported, task_for

pytestmark = pytest.mark.slow

SUFFIXES = ("onnx", "int8.onnx", "fp32.tflite", "int8.tflite", "int8-full.tflite")


def images(data: Dataset, count: int) -> np.ndarray:
    batches = [x.numpy() for x, _ in plain_batches(data, data.test[:count], SPEC)]
    return np.concatenate(batches).transpose(0, 2, 3, 1)


def test_every_kind_is_written_with_a_manifest_that_fits(exported: Exported) -> None:
    assert [artifact.file for artifact in exported.artifacts] == [f"tiny.{suffix}" for suffix in SUFFIXES]
    for artifact in exported.artifacts:
        again = read_artifact(exported.folder / artifact.file)
        assert again == artifact
        assert again.plan == exported.model.plan
        assert again.preprocessing == SPEC
        assert again.parity.images == 100
    assert not [path for path in exported.folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("suffix", ["onnx", "int8.onnx"])
def test_an_onnx_file_says_what_it_is(exported: Exported, suffix: str) -> None:
    said = {entry.key: entry.value for entry in onnx.load(exported.file(suffix)).metadata_props}
    own = read_artifact(exported.file(suffix))
    assert tuple(json.loads(said["pocketvit.labels"])) == own.class_names
    assert decode(Preprocessing, json.loads(said["pocketvit.preprocessing"]), "preprocessing") == SPEC
    assert said["pocketvit.precision"] == own.precision
    assert said["pocketvit.recipe"] == own.recipe
    assert said["pocketvit.weights_sha256"] == own.provenance.weights_sha256


@pytest.mark.parametrize("suffix", ["onnx", "fp32.tflite"])
def test_float_files_compute_what_torch_computes(exported: Exported, digits: Dataset, suffix: str) -> None:
    reference = logits_of(exported.model, digits, digits.test[:40], SPEC)
    logits = load(exported.file(suffix)).logits(images(digits, 40))
    assert np.abs(logits - reference).max() <= 1e-4 * np.abs(reference).max()
    assert (logits.argmax(1) == reference.argmax(1)).all()
    parity = read_artifact(exported.file(suffix)).parity
    assert parity.max_rel <= 1e-4
    assert parity.top1_agreement == 1.0
    assert parity.sqnr_db is None or parity.sqnr_db > 80


def test_integer_files_are_close_and_their_parity_is_what_a_rerun_gives(exported: Exported, digits: Dataset) -> None:
    indices = np.sort(stratified(digits.labels, digits.test, 100, np.random.default_rng(0)))
    reference = logits_of(exported.model, digits, indices, SPEC)
    batches = [x.numpy() for x, _ in plain_batches(digits, indices, SPEC)]
    inputs = np.concatenate(batches).transpose(0, 2, 3, 1)
    # fresh weights spread their activations badly, so the fully integer file is far from its float model
    for suffix, floor_db in (("int8.tflite", 25.0), ("int8-full.tflite", 5.0)):
        parity = read_artifact(exported.file(suffix)).parity
        logits = load(exported.file(suffix)).logits(inputs)
        assert parity.max_abs == pytest.approx(float(np.abs(logits - reference).max()), rel=1e-5)
        assert parity.top1_agreement == pytest.approx(float((logits.argmax(1) == reference.argmax(1)).mean()))
        assert parity.top1 == pytest.approx(float((logits.argmax(1) == digits.labels[indices]).mean()))
        assert parity.sqnr_db is not None
        assert parity.sqnr_db > floor_db, suffix


def test_int8_is_float_outside_and_int8_full_is_integer_throughout(exported: Exported) -> None:
    from ai_edge_litert.interpreter import Interpreter

    plain, full = (read_artifact(exported.file(s)) for s in ("int8.tflite", "int8-full.tflite"))
    assert (plain.input.dtype, plain.output.dtype) == ("float32", "float32")
    assert (full.input.dtype, full.output.dtype) == ("int8", "int8")
    assert full.input.scale is not None
    assert full.calibration is not None
    assert (full.calibration.split, full.calibration.images) == ("held-out", 8)
    assert plain.calibration == full.calibration
    kinds = {
        np.dtype(t["dtype"]).name for t in Interpreter(str(exported.file("int8-full.tflite"))).get_tensor_details()
    }
    assert kinds <= {"int8", "int32"}
    light = Interpreter(str(exported.file("int8.tflite"))).get_tensor_details()
    stored = sum(int(np.prod(tensor["shape"])) for tensor in light if np.dtype(tensor["dtype"]) == np.int8)
    assert stored >= sum(
        w.numel() for n, w in exported.model.state_dict().items() if n.endswith("weight") and w.ndim > 1
    )


def test_onnx_takes_any_batch(exported: Exported, digits: Dataset) -> None:
    session = load(exported.file("onnx"))
    assert session.artifact.input.shape[0] == -1
    inputs = images(digits, 7)
    together = session.run_raw(session.to_raw(inputs))
    single = np.concatenate([session.run_raw(session.to_raw(inputs[i : i + 1])) for i in range(7)])
    np.testing.assert_allclose(together, single, atol=1e-5)


def test_int8_onnx_answers_an_image_in_a_batch_as_alone(exported: Exported, digits: Dataset) -> None:
    session = load(exported.file("int8.onnx"))
    parity = session.artifact.parity
    assert parity.batch_agreement == 1.0
    # images that differ much: a range over the whole batch is the brightest one's
    inputs = images(digits, 32) * np.geomspace(0.01, 3, 32, dtype=np.float32)[:, None, None, None]
    together = session.run_raw(session.to_raw(inputs))
    single = np.concatenate([session.run_raw(session.to_raw(inputs[i : i + 1])) for i in range(32)])
    assert np.abs(together - single).max() <= 1e-4 * np.abs(single).max()
    graph = onnx.load(exported.file("int8.onnx")).graph
    assert not [node for node in graph.node if node.op_type == "DynamicQuantizeLinear"]
    assert [artifact.parity.batch_agreement for artifact in exported.artifacts] == [1.0, 1.0, None, None, None]


def test_files_carry_no_path_or_time_and_are_the_same_when_written_again(
    exported: Exported, digits: Dataset, tmp_path: Path
) -> None:
    settings = ExportSettings(calibration_images=8, verify_images=100)
    again = export_model(exported.model, task_for(digits, trained=False), digits, tmp_path, "tiny", settings)
    assert again == exported.artifacts
    for artifact in again:
        content = (tmp_path / artifact.file).read_bytes()
        assert b"/compress/vit.py" not in content
        assert b"site-packages" not in content
        assert (
            manifest_path(tmp_path / artifact.file).read_bytes()
            == manifest_path(exported.folder / artifact.file).read_bytes()
        )
    graph = onnx.load(tmp_path / "tiny.onnx").graph
    assert not any(node.metadata_props for node in graph.node)


def test_whole_files_are_kept_and_damaged_ones_written_again(
    exported: Exported, digits: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts"
    shutil.copytree(exported.folder, folder)
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    settings = ExportSettings(calibration_images=8, verify_images=100)
    (folder / "tiny.int8.tflite").write_bytes(b"damaged")
    result = export_model(exported.model, task_for(digits, trained=False), digits, folder, "tiny", settings)
    assert result == exported.artifacts
    changed = {path.name for path in folder.iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert changed == {"tiny.int8.tflite", "tiny.int8.tflite.json"}


def test_other_calibration_images_give_other_integer_files_alone(
    exported: Exported, digits: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts"
    shutil.copytree(exported.folder, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    settings = ExportSettings(calibration_images=12, verify_images=100)
    result = export_model(exported.model, task_for(digits, trained=False), digits, folder, "tiny", settings)
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before[path.name]}
    names = ("tiny.int8.onnx", "tiny.int8.tflite", "tiny.int8-full.tflite")
    assert changed == {*names, *(f"{name}.json" for name in names)}
    assert result[-1].calibration is not None
    assert result[-1].calibration.images == 12


def test_a_file_that_agrees_too_seldom_is_put_aside(sliced: SlicedViT, digits: Dataset, tmp_path: Path) -> None:
    # a recipe that was chosen could leave the head in float
    settings = ExportSettings(kinds=("int8",), verify_images=100, min_agreement=1.0, int8_recipe="dynamic_wi8_afp32")
    noisy = replace_head_by_near_ties(sliced)
    with pytest.raises(ParityError, match=r"agrees too seldom.*rejected") as caught:
        export_model(noisy, task_for(digits), digits, tmp_path, "bad", settings)
    assert caught.value.exit_code == 1
    assert not list(tmp_path.glob("*.tflite"))
    kept = tmp_path / "rejected" / "bad.int8.tflite"
    assert read_artifact(kept).parity.top1_agreement < 0.9


def replace_head_by_near_ties(model: SlicedViT) -> SlicedViT:
    """Makes classes differ by less than a step of int8, so that a head of integers answers the first class always.

    Every row of the head has the same largest value, and so the same steps.
    """
    weights = dict(model.state_dict())
    head = weights["head.weight"]
    steps = torch.linspace(-120, 120, head.shape[1]).round()
    steps[0] = 127
    differences = 0.4 * torch.sign(torch.randn(head.shape, generator=torch.Generator().manual_seed(0)))
    differences[:, 0] = 0
    weights["head.weight"] = (steps + differences) / 127
    weights["head.bias"] = weights["head.bias"] * 0
    return build(model.plan, weights)


def test_a_wrong_float_file_is_refused(
    sliced: SlicedViT, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load_model(ModelSpec("vit_tiny_patch16_224", 32, 8, 1, overrides=OVERRIDES), 10, seed=1)
    honest = onnx_format.vit_graph
    monkeypatch.setattr(onnx_format, "vit_graph", lambda model, *how: honest(other, *how))
    settings = ExportSettings(kinds=("onnx",), verify_images=40)
    with pytest.raises(ParityError, match="widths of its plan"):
        export_model(sliced, task_for(digits), digits, tmp_path, "bad", settings)
    model = load_model(ModelSpec("vit_tiny_patch16_224", 32, 8, 1, overrides=OVERRIDES), 10, seed=2)
    with pytest.raises(ParityError, match="does not compute what the torch model computes"):
        export_model(model, task_for(digits), digits, tmp_path, "bad", settings)
    assert not list(tmp_path.glob("*.onnx"))


def test_random_weights_are_reported_and_not_gated(sliced: SlicedViT, digits: Dataset, tmp_path: Path) -> None:
    # a recipe that was chosen could leave the head in float
    settings = ExportSettings(kinds=("int8",), verify_images=100, min_agreement=1.0, int8_recipe="dynamic_wi8_afp32")
    noisy, task = replace_head_by_near_ties(sliced), task_for(digits, trained=False)
    (artifact,) = export_model(noisy, task, digits, tmp_path, "fresh", settings)
    assert artifact.parity.top1_agreement < 0.9
    assert read_artifact(tmp_path / "fresh.int8.tflite") == artifact
    assert not (tmp_path / "rejected").exists()


def test_exporting_leaves_the_model_in_the_mode_it_was_in(sliced: SlicedViT, tmp_path: Path) -> None:
    training = build(sliced.plan, sliced.state_dict()).train()
    write_onnx(training, tmp_path / "m.onnx")
    write_tflite(training, tmp_path / "m.tflite")
    assert all(part.training for part in training.modules())


def test_other_classes_than_the_data_leave_accuracy_null_with_a_reason(
    sliced: SlicedViT, digits: Dataset, tmp_path: Path
) -> None:
    task = replace(task_for(digits), class_names=tuple(f"class {i}" for i in range(10)))
    settings = ExportSettings(kinds=("onnx",), verify_images=10)
    (artifact,) = export_model(sliced, task, digits, tmp_path, "tiny", settings)
    assert artifact.parity.top1 is None
    assert "classes of the model are not those of" in (artifact.parity.top1_reason or "")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kinds": ("onnx", "coreml")}, "coreml"),
        ({"kinds": ()}, "Unknown kind"),
        ({"calibration_images": 1}, "at least 2"),
        ({"verify_images": -1}, "negative"),
        ({"min_agreement": 1.5}, "0 to 1"),
        ({"opset": 16}, "an opset of 17 to 23. Got 16"),
        ({"opset": 24}, "an opset of 17 to 23. Got 24"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(DataError, match=text):
        ExportSettings(**change)  # type: ignore[arg-type]


def test_manifest_names_the_bytes_it_stands_beside(exported: Exported) -> None:
    for suffix in SUFFIXES:
        body = json.loads(manifest_path(exported.file(suffix)).read_text())
        assert body["schema"] == "pocketvit.artifact"
        assert body["sha256"] == sha256_of(exported.file(suffix))
        assert body["provenance"]["source"] == "a model made by a test"
        assert body["provenance"]["versions"]["torch"]
    assert ExportSettings().kinds == ("onnx", "onnx-int8", "fp32", "int8", "int8-full")
    assert set(ExportSettings().kinds) < set(KINDS)


def test_where_no_recipe_loses_so_little_the_closest_is_named(
    sliced: SlicedViT, digits: Dataset, tmp_path: Path
) -> None:
    ties = replace_head_by_near_ties(sliced)
    # labels that the float model has right by definition: every answer that changes is lost
    everything = np.arange(len(digits.labels))
    own = replace(digits, labels=logits_of(ties, digits, everything, SPEC).argmax(1))
    settings = ExportSettings(
        kinds=("int8-full",), calibration_images=8, verify_images=40, max_drop=0.5, min_agreement=0.0
    )
    with pytest.raises(
        ParityError, match=r"ties.int8-full.tflite loses too much top-1.*at most 0.5 points. Got .* on 40 images"
    ) as caught:
        export_model(ties, task_for(own), own, tmp_path, "ties", settings)
    assert caught.value.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["rejected"]
    closest = read_artifact(tmp_path / "rejected" / "ties.int8-full.tflite")
    tried = [trial.recipe.removeprefix("static_wi8_ai8_") for trial in closest.trials]
    assert tried[:3] == ["mse", "minmax", "percentile"]
    assert all(recipe.endswith("_learnt") for recipe in tried[3:])
    assert max(trial.sqnr_db or 0 for trial in closest.trials) in {
        trial.sqnr_db for trial in closest.trials if trial.recipe == closest.recipe
    }
    assert closest.refused is not None
    assert "loses too much" in closest.refused
    easy = replace(settings, max_drop=100.0)
    assert export_model(ties, task_for(own), own, tmp_path, "ties", easy)[-1].asked["max_drop"] == 100.0
    assert not list((tmp_path / "rejected").iterdir())


@pytest.mark.parametrize("mask", [0o027, 0o002])
def test_files_may_be_read_by_whom_the_system_says(
    exported: Exported, digits: Dataset, tmp_path: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        settings = ExportSettings(kinds=("onnx", "fp32", "torch"), verify_images=2)
        export_model(exported.model, task_for(digits, trained=False), digits, tmp_path / "files", "tiny", settings)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "files").iterdir()}
    assert len(modes) == 6
    assert set(modes.values()) == {0o666 & ~mask}
