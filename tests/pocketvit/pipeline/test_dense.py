"""A run whose model answers with a grid of patches: what it takes, what it refuses, and its files and pictures."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocketvit.options import distill_settings, run_settings
from pocketvit.pipeline import run as pipeline
from pocketvit.train_settings import TrainSettings
from runtime import METRICS_DOCUMENT, PlanError, PocketVitWarning
from tests.pocketvit.conftest import Command
from tests.pocketvit.pipeline.test_embed import prepared, settings_of, weights

__all__ = ["weights"]


def test_the_classifier_is_left_out_and_the_blocks_are_those_asked_for(weights: Path) -> None:
    job = prepared(weights, task="dense", blocks=(1, 2))
    assert (job.plan.output, job.plan.grid_blocks, job.plan.output_shape) == ("grid", (1,), (2, 2, 64))
    assert (job.labelled, job.task.class_names, job.settings.uses_labels) == (False, (), False)
    assert "The head of 7 outputs is left out: the model answers with the tokens of its patches" in job.notes[-1]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"search": "greedy"}, "--search greedy counts right answers, and a grid of patches gives none"),
        ({"search": "dfbnb"}, "--search dfbnb counts right answers, and a grid of patches gives none"),
        ({"search": "tas"}, "--search tas trains on classes"),
        ({"qat_epochs": 1}, "Expected no --qat with --task dense"),
        ({"embed_dim": 8}, "Expected --task embed with them. Got --embed-dim"),
        ({"normalise": True}, "Expected --task embed with them. Got --normalise"),
        ({"blocks": (3,)}, "Expected --blocks with rising numbers of 1 to 2. Got 3"),
        ({"task": "embed", "blocks": (1,)}, "Expected --task dense with it"),
    ],
)
def test_what_a_grid_cannot_do_is_refused(weights: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        prepared(weights, **{"task": "dense", **changes})
    assert text in str(caught.value)


def test_blocks_mean_pairs_in_a_distillation_alone() -> None:
    assert run_settings({"task": "dense", "blocks": "3,6"}).blocks == (3, 6)
    settings, lesson = distill_settings({"method": "feature", "teacher": "run", "blocks": "3:1,6:2"})
    assert (settings.blocks, lesson.distillation.blocks) == ((), ((3, 1), (6, 2)))


@pytest.mark.slow
def test_a_run_makes_files_that_follow_the_whole_model(tmp_path: Path, weights: Path, pocketvit: Command) -> None:
    root = tmp_path / "own"
    changes: dict[str, Any] = {"task": "dense", "blocks": (1, 2), "kinds": ("fp32",), "verify_images": 12}
    settings = settings_of(weights, **changes, recover=TrainSettings(epochs=1, batch_size=16, lr=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PocketVitWarning)
        pipeline.compress(settings, root)
        pipeline.export_run(root, settings)
    sliced = METRICS_DOCUMENT.read(root / "sliced" / "metrics.json")
    assert sliced.top1_reason == "the model answers with a grid, not with classes"
    assert sliced.test_whole is not None
    assert sliced.test_whole.cosine is not None
    assert sliced.test_whole.neighbours is not None
    assert sliced.test_whole.cosine > 0.8
    for number in range(3):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 32), np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    pictures = [tmp_path / f"{number}.png" for number in range(3)]
    file = root / "artifacts" / "own.fp32.tflite"
    answer = pocketvit("predict", file, *pictures, "--plot", tmp_path / "c.jpg", "--npz", tmp_path / "g.npz", "--json")
    assert answer.code == 0, answer.err
    with np.load(tmp_path / "g.npz") as file_of_arrays:
        found = dict(file_of_arrays)
    assert found["values"].shape == (3, 2, 2, 64)
    assert found["images"].tolist() == [str(path) for path in pictures]
    assert np.allclose(json.loads(answer.out)["predictions"][1]["values"], found["values"][1])
    with Image.open(tmp_path / "c.jpg") as picture:
        assert picture.width > 4 * 176
    refused = pocketvit("predict", file, *pictures, "--npz", tmp_path / "g.txt")
    assert (refused.code, (tmp_path / "g.txt").exists()) == (2, False)
    assert "a name that ends in .npz" in refused.err
