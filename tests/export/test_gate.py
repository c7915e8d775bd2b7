"""The gate of an export: released with a warning, refused as soon as it can be told, and bad calibration noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.data.dataset import ArrayImages, Dataset
from compress.evaluate import evaluating, logits_of
from compress.model.vit import SlicedViT
from export import exporter, reference
from export.exporter import export_each, export_model
from export.formats import KINDS
from export.job import ExportJob, looks_of
from export.reference import GrowingReference
from export.settings import ExportSettings
from runtime import DataError, Provenance, read_artifact

from .conftest import SPEC, task_for

FAST = ExportSettings(kinds=("int8",), calibration_images=16, verify_images=40, int8_recipe="dynamic_wi8_afp32")


@pytest.fixture(scope="module")
def right(sliced: SlicedViT, digits: Dataset) -> Dataset:
    """Digits whose labels are the float model's answers, so that it has all of them right."""
    return replace(digits, labels=logits_of(sliced, digits, np.arange(len(digits.labels)), SPEC).argmax(1))


def job_of(sliced: SlicedViT, data: Dataset, settings: ExportSettings, *, trained: bool = True) -> ExportJob:
    task = task_for(data, trained=trained)
    return ExportJob(sliced, task, data, Path(), "m", settings, Provenance("0", "a test", "0" * 64, {}), None)


@pytest.mark.slow
def test_a_loss_that_is_not_proven_small_is_a_warning(sliced: SlicedViT, right: Dataset, tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if not total:
            said.append((stage, note))

    (file,) = export_model(sliced, task_for(right), right, tmp_path, "m", FAST, progress)
    assert file.refused is None
    assert "It is not proven that m.int8.tflite loses at most 0.5 points of top-1" in (file.unproven or "")
    assert ("m.int8.tflite released with a warning", file.unproven) in said
    assert file.drop_bounds is not None
    assert file.drop_bounds[0] <= 0.5 < file.drop_bounds[1]
    assert file.parity.lost == sum(own.lost for own in file.class_losses)
    again = export_each(sliced, task_for(right), right, tmp_path, "m", FAST)
    assert again.accepted == (file,)
    # a limit that the bounds keep leaves no doubt
    (file,) = export_model(sliced, task_for(right), right, tmp_path, "m", replace(FAST, max_drop=40.0))
    assert (file.unproven, file.asked["max_drop"]) == (None, 40.0)


@pytest.mark.slow
def test_a_refused_file_takes_no_other_down_and_is_judged_on_more_images_until_it_can_be_told(
    sliced: SlicedViT, right: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "looks_of", lambda job: (40, 80, 160, 320))
    honest = exporter.VerifiedFile._answers
    looks: list[int] = []

    def answers(self: Any, inputs: np.ndarray, first: bool) -> np.ndarray:
        if self.artifact.file != "m.int8-full.tflite":
            return honest(self, inputs, first)
        looks.append(len(inputs))
        with evaluating(sliced):
            logits = sliced(torch.from_numpy(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)))).numpy()
        # the float model is always right, and one answer of 40 is another one
        return np.where(np.arange(len(inputs))[:, None] % 40 == 5, -logits, logits)

    monkeypatch.setattr(exporter.VerifiedFile, "_answers", answers)
    settings = ExportSettings(("int8-full", "onnx", "fp32"), calibration_images=16, min_agreement=0.5)
    heard: list[str] = []
    outcome = export_each(
        sliced, task_for(right), right, tmp_path, "m", settings, lambda stage, done, total, note="": heard.append(note)
    )
    assert [own.file for own in outcome.accepted] == ["m.onnx", "m.fp32.tflite"]
    (refused,) = outcome.refused
    assert "m.int8-full.tflite loses too much top-1. Expected a loss of at most 0.5 points. Got 2.5" in (
        refused.refused or ""
    )
    assert len(looks) > 1
    assert "40 images cannot tell whether m.int8-full.tflite keeps its limits; adding some" in heard
    assert refused.parity.images == sum(looks)
    assert read_artifact(tmp_path / "rejected" / refused.file) == refused


def test_a_verified_float_file_answers_further_images(
    sliced: SlicedViT, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(model: Any, data: Dataset, indices: Any, *spec: Any, **options: Any) -> Any:
        asked.append(len(indices))
        return logits_of(model, data, indices, *spec, **options)

    monkeypatch.setattr(reference, "logits_of", counted)
    settings = replace(FAST, int8_recipe="")
    (alone,) = export_model(sliced, task_for(digits), digits, tmp_path / "alone", "m", settings)
    assert len(asked) == 2  # test images, and those that recipes are compared on
    asked.clear()
    both = replace(settings, kinds=("int8", "fp32"))
    with_float = export_model(sliced, task_for(digits), digits, tmp_path / "both", "m", both)
    assert [own.file for own in with_float] == ["m.int8.tflite", "m.fp32.tflite"]
    assert asked == [FAST.verify_images]
    assert with_float[0].trials[0].sqnr_db == pytest.approx(alone.trials[0].sqnr_db, abs=0.05)
    assert with_float[0].parity.sqnr_db == pytest.approx(alone.parity.sqnr_db, abs=0.05)


def test_later_looks_begin_with_the_images_of_earlier_ones(sliced: SlicedViT, digits: Dataset) -> None:
    growing = GrowingReference(job_of(sliced, digits, FAST))
    first, second = growing.take(30), growing.take(70)
    np.testing.assert_array_equal(second.inputs[:30], first.inputs)
    np.testing.assert_array_equal(second.labels[:30], first.labels)
    assert len(np.unique(second.inputs.reshape(70, -1), axis=0)) == 70
    # each part has its share of every class
    for labels in (first.labels, second.labels[30:]):
        assert np.ptp(np.bincount(labels, minlength=10)) <= 2
    np.testing.assert_allclose(growing.take(70).logits[:30], first.logits)


def test_a_number_of_images_that_was_asked_for_is_the_only_look(sliced: SlicedViT, digits: Dataset) -> None:
    assert looks_of(job_of(sliced, digits, FAST)) == (40,)
    assert looks_of(job_of(sliced, digits, replace(FAST, verify_images=0))) == (len(digits.test),)


def test_limits_follow_the_kind_the_weights_and_what_was_given(sliced: SlicedViT, digits: Dataset) -> None:
    def limits(kind: str, *, trained: bool = True, **given: Any) -> tuple[Any, ...]:
        own = job_of(sliced, digits, replace(FAST, **given), trained=trained).limits(KINDS[kind])
        return own.agreement, own.sqnr_db, own.max_drop, own.explicit_drop

    for kind in ("int8", "onnx-int8", "int8-full"):
        assert limits(kind) == (0.9, 12.0, 0.5, False)
        assert limits(kind, max_drop=2.0) == (0.9, 12.0, 2.0, True)
        assert limits(kind, min_agreement=0.97) == (0.97, None, 0.5, False)
        assert limits(kind, min_agreement=0.0) == (0.0, None, None, False)
        assert limits(kind, min_agreement=0.0, max_drop=2.0) == (0.0, None, 2.0, True)
        assert limits(kind, trained=False, min_agreement=1.0) == (None, None, None, False)
    assert limits("fp32") == (None, None, None, False)
    assert limits("fp16") == (0.99, None, None, False)


@pytest.mark.slow
def test_a_calibration_set_of_plain_images_is_refused_and_float_files_are_written(
    sliced: SlicedViT, digits: Dataset, tmp_path: Path
) -> None:
    pixels = np.stack([np.asarray(digits.images[index]) for index in range(len(digits.images))])
    plain = pixels.copy()
    plain[digits.held_out] = pixels[digits.held_out].mean(axis=(1, 2), keepdims=True)
    with pytest.raises(DataError, match="The calibration images show nothing"):
        export_model(
            sliced,
            task_for(digits),
            replace(digits, images=ArrayImages(plain)),
            tmp_path,
            "m",
            replace(FAST, kinds=("int8", "fp32")),
        )
    assert [path.name for path in tmp_path.glob("*.tflite")] == ["m.fp32.tflite"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "factor", "said"), [(3, 1.0, "Only 3 images"), (32, 0.5, "times the spread"), (32, 200.0, None)]
)
def test_few_calibration_images_and_another_normalisation_are_noticed_or_refused(
    sliced: SlicedViT,
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    factor: float,
    said: str | None,
) -> None:
    from export import job

    honest, heard = job.images_of, []

    def prepared(data: Dataset, indices: np.ndarray, task: Any) -> np.ndarray:
        own = honest(data, indices, task)
        return own * np.float32(factor) if len(indices) == images else own

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        heard.append(note)

    monkeypatch.setattr(job, "images_of", prepared)
    settings = replace(FAST, calibration_images=images, min_agreement=0.0)
    if said is None:
        with pytest.raises(DataError, match="other values than the images that the file is compared on"):
            export_model(sliced, task_for(digits), digits, tmp_path, "m", settings)
        return
    export_model(sliced, task_for(digits), digits, tmp_path, "m", settings, progress)
    assert any(said in note for note in heard)


@pytest.mark.slow
def test_kinds_of_one_form_are_calibrated_once(sliced: SlicedViT, digits: Dataset, tmp_path: Path) -> None:
    ends: list[str] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if 0 < done == total and (stage.endswith("calibration") or "float answers" in stage):
            ends.append(stage)

    settings = ExportSettings(("int8", "int8-full"), calibration_images=16, verify_images=20)
    export_model(sliced, task_for(digits, trained=False), digits, tmp_path, "m", settings, progress)
    # both need the rotated graph alone
    assert ends == ["float answers", "int8 float answers", "int8 calibration"]
