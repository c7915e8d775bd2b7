"""Least squares after slicing, as a run does it: told in the log, kept where it helps, left out where asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pocketvit
from compress.evaluate import score
from compress.model.folder import read_model, weights_sha256
from compress.model.slicing import keep_all, slice_vit
from pocketvit import RunSettings, TrainSettings
from pocketvit.pipeline.cutting import cut_units
from pocketvit.pipeline.job import prepare
from pocketvit.pipeline.runfolder import RunFolder

pytestmark = pytest.mark.slow

SETTINGS = RunSettings(
    model="vit_tiny_patch16_224",
    img_size=32,
    patch_size=8,
    model_args={"embed_dim": 48, "depth": 3, "num_heads": 3},
    fine_tune=TrainSettings(epochs=3, batch_size=32),
    recover=TrainSettings(epochs=0),
    budget="macs=0.5",
    basis="units",
    train_limit=300,
    threads=1,
)


def events(root: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (root / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "reconstructed"]


def test_what_is_left_is_fitted_unless_that_is_left_out(tmp_path: Path) -> None:
    pocketvit.compress(SETTINGS, tmp_path / "fitted")
    pocketvit.compress(replace(SETTINGS, reconstruct=False), tmp_path / "plain")
    (found,) = events(tmp_path / "fitted")
    assert not events(tmp_path / "plain")
    models = {name: read_model(tmp_path / name / "sliced") for name in ("fitted", "plain")}
    assert models["fitted"].plan == models["plain"].plan
    job = prepare(SETTINGS)
    losses = {
        name: score(model, job.data, job.data.held_out, job.task.preprocessing).loss for name, model in models.items()
    }
    assert found["before"]["loss"] == pytest.approx(losses["plain"], rel=1e-5)
    assert found["kept"] == (found["after"]["loss"] <= found["before"]["loss"])
    assert losses["fitted"] == pytest.approx(min(found["before"]["loss"], found["after"]["loss"]), rel=1e-5)
    # half of a small model is missed, and most of what it did can be made good
    assert losses["fitted"] < losses["plain"]
    assert found["images"] == 250


def test_a_model_that_loses_nothing_is_not_touched(tmp_path: Path) -> None:
    settings = replace(SETTINGS, fine_tune=TrainSettings(epochs=0))
    job = prepare(settings)
    pocketvit.compress(replace(settings, budget="macs=1"), tmp_path / "whole")
    assert not events(tmp_path / "whole")
    model = read_model(tmp_path / "whole" / "baseline")
    same = cut_units(job, RunFolder(tmp_path / "whole"), model, keep_all(model.plan), 1)
    assert weights_sha256(same) == weights_sha256(slice_vit(model, keep_all(model.plan)))
