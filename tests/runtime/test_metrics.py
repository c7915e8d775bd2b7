from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from runtime import METRICS_DOCUMENT, ArtifactError, EpochRecord, ModelMetrics, WholeComparison

from .examples import edited
from .tiny import GOLDEN

METRICS = ModelMetrics(123, 456, 789, 0.5, 100, 0.25, (EpochRecord(1, 0.5, 0.75, 0.125),))
UNLABELLED = ModelMetrics(
    *(123, 456, 789, None, 0, None),
    epochs=(EpochRecord(1, 0.5, None, None, 0.875, 0.0625),),
    top1_reason="the run reads no labels",
    test_whole=WholeComparison(100, 0.75, 0.5),
    held_out_whole=WholeComparison(50, 0.5, None, "the residual stream has another width"),
)


def test_metrics_round_trip(tmp_path: Path) -> None:
    for metrics in (METRICS, replace(METRICS, epochs=()), UNLABELLED):
        METRICS_DOCUMENT.write(tmp_path / "metrics.json", metrics)
        assert METRICS_DOCUMENT.read(tmp_path / "metrics.json") == metrics


def test_version_1_still_loads() -> None:
    assert METRICS_DOCUMENT.read(GOLDEN / "metrics-v1.json") == METRICS


def test_version_2_still_loads_and_is_still_what_is_written(tmp_path: Path) -> None:
    assert METRICS_DOCUMENT.read(GOLDEN / "metrics-v2.json") == UNLABELLED
    METRICS_DOCUMENT.write(tmp_path / "metrics.json", UNLABELLED)
    assert (tmp_path / "metrics.json").read_bytes() == (GOLDEN / "metrics-v2.json").read_bytes()


def test_a_figure_that_labels_would_give_is_null_and_never_zero() -> None:
    written = json.loads((GOLDEN / "metrics-v2.json").read_text())
    assert (written["top1"], written["held_out_top1"]) == (None, None)
    assert written["top1_reason"] == "the run reads no labels"
    assert written["epochs"][0]["held_out_top1"] is None
    assert written["held_out_whole"]["cosine"] is None


def test_a_loss_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    diverged = replace(METRICS, epochs=(EpochRecord(1, float("nan"), 0.5, 0.5),))
    with pytest.raises(ArtifactError, match=r"metrics\.json cannot be written as JSON"):
        METRICS_DOCUMENT.write(tmp_path / "metrics.json", diverged)
    assert not list(tmp_path.iterdir())


def test_damaged_metrics_are_an_artifact_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    whole = (GOLDEN / "metrics-v1.json").read_bytes()
    for length in range(0, len(whole) - 1, 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"metrics\.json"):
            METRICS_DOCUMENT.read(path)
    path.write_bytes(whole)
    edited(path, "epochs", 0, "train_loss", value="low")
    with pytest.raises(ArtifactError, match=r"epochs\[0\]\.train_loss has the wrong type or value. Expected float"):
        METRICS_DOCUMENT.read(path)
    path.write_text(json.dumps({"schema": "pocketvit.metrics", "schema_version": 3}))
    with pytest.raises(ArtifactError, match="newer PocketViT"):
        METRICS_DOCUMENT.read(path)
