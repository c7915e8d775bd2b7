"""How pictures become a model's input: what the command line and the settings take, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocketvit import RunSettings, export_run
from pocketvit.options import run_settings
from pocketvit.pipeline.job import prepare
from pocketvit.pipeline.runfolder import claim
from runtime import PlanError
from tests.pocketvit.conftest import Command

TINY: dict[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "model_args": {"embed_dim": 32, "depth": 1, "num_heads": 2},
    "patch_size": 16,
}


@pytest.fixture
def photos(tmp_path: Path) -> str:
    for name in ("cat", "dog"):
        for number in range(6):
            pixels = np.full((20, 30, 3), 40 * number, np.uint8)
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return f"imagefolder:{tmp_path / 'photos'}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("center", 0.9, "bicubic", (0.5,) * 3, (0.5,) * 3)),
        ({"crop_pct": 0.8, "resize": "squash"}, ("squash", 0.8, "bicubic", (0.5,) * 3, (0.5,) * 3)),
        ({"resize": "stretch"}, ("stretch", 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)),
        ({"interpolation": "bilinear", "mean": (0.3,)}, ("center", 0.9, "bilinear", (0.3,) * 3, (0.5,) * 3)),
        ({"mean": (0.1, 0.2, 0.3), "std": (0.25,)}, ("center", 0.9, "bicubic", (0.1, 0.2, 0.3), (0.25,) * 3)),
    ],
)
def test_preprocessing_is_timms_own_or_what_was_asked_for(
    photos: str, changes: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    spec = prepare(RunSettings(data=photos, **TINY, img_size=32, in_chans=3, **changes)).task.preprocessing
    assert (spec.resize, spec.crop_pct, spec.interpolation, spec.mean, spec.std) == expected


def test_built_in_square_data_is_stretched_unless_something_else_is_asked_for() -> None:
    spec = prepare(RunSettings()).task.preprocessing
    assert (spec.resize, spec.crop_pct) == ("stretch", 1.0)
    spec = prepare(RunSettings(crop_pct=0.9)).task.preprocessing
    assert (spec.resize, spec.crop_pct) == ("center", 0.9)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mean": (123.675, 116.28, 103.53)}, r"between 0 and 255. Expected at most 1.5. .*--mean 0.485,0.456,0.406"),
        ({"std": (58.395, 57.12, 57.375)}, r"--std 0.229,0.224,0.225"),
        ({"mean": (0.5, 0.5, 127.5)}, "between 0 and 255"),
        (
            {"resize": "crop"},
            "does not take this for resize. Expected center, squash, border or stretch or None. Got 'crop'",
        ),
        ({"resize": "center_crop"}, "does not take this for resize"),
        ({"interpolation": "cubic"}, "does not take this for interpolation"),
        ({"class_order": "numeric"}, "does not take this for class_order"),
        ({"img_size": "32"}, "does not take this for img_size"),
        ({"crop_pct": 0.0}, "--crop-pct is a share. Expected 0.01 to 1. Got 0"),
        ({"crop_pct": 87.5}, "--crop-pct is a share"),
        ({"resize": "stretch", "crop_pct": 0.9}, "stretch crops nothing"),
        ({"img_size": 0}, "--img-size must be positive"),
        ({"img_size": (32, 0)}, "--img-size must be positive"),
        ({"patch_size": 0}, "--patch-size must be positive"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        RunSettings(**changes)


@pytest.mark.parametrize(("text", "size"), [("32", 32), ("32x64", (32, 64)), (" 224X32 ", (224, 32))])
def test_a_size_is_one_side_or_two(text: str, size: Any) -> None:
    assert run_settings({"img-size": text}).img_size == size


@pytest.mark.parametrize("text", ["", "x", "32x", "x32", "32x32x3", "-32", "3.5", "٣٢"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match=r"--img-size cannot be read. Expected a number of pixels, or HEIGHTxWIDTH"):
        run_settings({"img-size": text})


def test_a_rectangular_input_is_resumed(tmp_path: Path) -> None:
    settings = RunSettings(**TINY, img_size=(32, 64))
    job = prepare(settings)
    assert (job.plan.img_size, job.task.preprocessing.resize) == ((32, 64), "center")
    with claim(tmp_path / "run", settings, resume=False, force=False):
        pass
    with claim(tmp_path / "run", settings, resume=True, force=False):
        pass


@pytest.mark.parametrize("option", ["resize", "interpolation", "class-order", "search"])
def test_choices_are_checked_by_the_options_name(pocketvit: Command, option: str) -> None:
    answer = pocketvit("run", f"--{option}", "foo")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: --{option} is one of")


@pytest.mark.parametrize("option", ["--img-size", "--patch-size", "--in-chans"])
def test_zero_is_not_the_default(pocketvit: Command, tmp_path: Path, option: str) -> None:
    answer = pocketvit("run", "--runs", tmp_path, option, 0)
    assert answer.code == 2, answer.err
    assert "0" in answer.err
    assert not list(tmp_path.iterdir())


def test_sides_that_do_not_divide_are_refused(pocketvit: Command, tmp_path: Path) -> None:
    answer = pocketvit("run", "--runs", tmp_path, "--img-size", "32x60")
    assert (answer.code, "multiple of 8" in answer.err, "32x60" in answer.err) == (2, True, True), answer.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--data", "digits"),
        ("--model", "vit_small_patch16_224"),
        ("--pretrained",),
        ("--budget", "macs=0.5"),
        ("--no-distill",),
        ("--name", "other"),
        ("--threads", "1"),
    ],
)
def test_options_that_a_run_answers_itself_are_refused(pocketvit: Command, tiny_run: Path, options: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    answer = pocketvit("export", tiny_run, "--formats", "fp32", *options)
    assert answer.code == 2, answer.err
    assert f"Got {options[0].replace('--no-', '--')}" in answer.err
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before


def test_settings_that_a_run_answers_itself_are_refused(tmp_path: Path) -> None:
    with claim(tmp_path, RunSettings(seed=5), resume=False, force=False):
        pass
    for settings, name in ((RunSettings(train_limit=9), "train_limit"), (RunSettings(seed=3), "seed")):
        with pytest.raises(PlanError, match=f"decides its model and data.*Got {name}"):
            export_run(tmp_path, settings)
