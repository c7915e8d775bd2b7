"""The Python API refuses what the command line refuses, and takes what a person would write."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import pocketvit
from compress.distill.settings import Distillation
from compress.model.load import ModelSpec
from compress.recipe import TrainRecipe
from compress.search.base import GroupSizes
from compress.search.sparse_settings import SparseSettings
from compress.search.tas.settings import OddsRecipe, TasSettings
from compress.search.tree.settings import TreeEffort, TreeSettings
from device_bench.documents.measurement import Sampling
from pocketvit.distill_settings import DistillSettings
from pocketvit.pipeline.benching import BenchSettings
from pocketvit.pipeline.runfolder import claim, read_settings
from pocketvit.settings import RunSettings
from pocketvit.train_settings import TrainSettings
from runtime import PlanError, PocketVitError, decode, encode
from tests.device_bench.conftest import make_run

SETTINGS = (RunSettings, TrainSettings, TreeSettings, TasSettings, SparseSettings, DistillSettings, BenchSettings)
DEEPER = (Distillation, GroupSizes, ModelSpec, OddsRecipe, TrainRecipe, TreeEffort, Sampling)
NEEDED = {ModelSpec: {"name": "vit_tiny_patch16_224"}, TrainRecipe: {"epochs": 1}}


@pytest.mark.parametrize(
    ("given", "expected", "got"),
    [
        ({"search": "foo"}, "one-shot, milp, greedy, dfbnb, tas, uniform or unstructured", "'foo'"),
        ({"importance": "best"}, "fisher, taylor, l2 or random", "'best'"),
        ({"bf16": True}, "auto, on or off", "True"),
        ({"made_for": "pi3"}, "x86, pi4, pi5, android or static-int8", "'pi3'"),
        ({"latency_precision": "fp16"}, "fp32 or int8", "'fp16'"),
        ({"img_size": "32"}, "a whole number", "'32'"),
        ({"kinds": "fp32"}, "such as ('fp32',)", "'fp32'"),
        ({"distill_methods": "response"}, "such as ('response',)", "'response'"),
        ({"fine_tune": {"epochs": 3}}, "a TrainSettings", "{'epochs': 3}"),
        ({"tree": TasSettings()}, "a TreeSettings", "TasSettings("),
        ({"mean": 0.5}, "such as (0.5,)", "0.5"),
        ({"budget": 0.75}, "a text", "0.75"),
        ({"model_args": [("depth", 2)]}, "a dict", "[('depth', 2)]"),
        ({"seed": 1.5}, "a whole number", "1.5"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(given: dict[str, Any], expected: str, got: str) -> None:
    with pytest.raises(PlanError) as caught:
        RunSettings(**given)
    (name,) = given
    assert str(caught.value).startswith(f"RunSettings does not take this for {name}. Expected ")
    assert expected in str(caught.value)
    assert f"Got {got}" in str(caught.value)


@pytest.mark.parametrize("cls", [*SETTINGS, *DEEPER], ids=lambda cls: cls.__name__)
def test_every_setting_of_every_kind_is_checked(cls: Any) -> None:
    """So that a setting that is added tomorrow is checked too."""
    for name in (own.name for own in dataclasses.fields(cls)):
        if get_type_hints(cls)[name] is Any:
            continue
        with pytest.raises(PlanError, match=f"{cls.__name__} does not take this for {name}"):
            cls(**{**NEEDED.get(cls, {}), name: object()})


def test_paths_and_lists_work_and_are_kept_as_ever(tmp_path: Path) -> None:
    given = RunSettings(
        data="digits",
        model="vit_tiny_patch16_224",
        checkpoint=tmp_path / "model.pth",  # type: ignore[arg-type]
        profiles=tmp_path,  # type: ignore[arg-type]
        mean=[0.5],  # type: ignore[arg-type]
        kinds=["fp32"],  # type: ignore[arg-type]
        distill_methods=["response"],  # type: ignore[arg-type]
        sparse=SparseSettings(layers=["fc1"]),  # type: ignore[arg-type]
    )
    usual = RunSettings(
        data="digits",
        model="vit_tiny_patch16_224",
        checkpoint=str(tmp_path / "model.pth"),
        profiles=str(tmp_path),
        mean=(0.5,),
        kinds=("fp32",),
        sparse=SparseSettings(layers=("fc1",)),
    )
    assert given == usual
    assert decode(RunSettings, json.loads(json.dumps(encode(given))), "run.json") == usual
    with claim(tmp_path / "run", given, resume=False, force=False) as folder:
        assert read_settings(folder) == usual
    with claim(tmp_path / "run", usual, resume=True, force=False):
        pass


def test_specs_take_paths_as_texts(tmp_path: Path) -> None:
    spec = ModelSpec("vit_tiny_patch16_224", checkpoint=str(tmp_path / "none.pth"))  # type: ignore[arg-type]
    with pytest.raises(PocketVitError, match=r"none\.pth does not exist"):
        pocketvit.load_model(spec, 10)


def test_something_else_than_settings_is_refused(tmp_path: Path) -> None:
    wrong: Any
    for wrong in ({"budget": "macs=0.5"}, "digits", None, DistillSettings):
        for call in (pocketvit.run, pocketvit.compress, pocketvit.export):
            with pytest.raises(PlanError, match=r"Expected RunSettings\. Got"):
                call(wrong, tmp_path / "run")
        with pytest.raises(PlanError, match=r"Expected RunSettings\. Got"):
            pocketvit.export_run(tmp_path / "run", wrong)
        with pytest.raises(PlanError, match=r"Expected ModelSpec\. Got"):
            pocketvit.load_model(wrong, 10)
    with pytest.raises(PlanError, match=r"Expected DistillSettings\. Got"):
        pocketvit.distill(RunSettings(), RunSettings(), tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_folders_may_be_given_as_texts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "digits")
    assert pocketvit.summarise(str(run)) == pocketvit.summarise(run)
    assert pocketvit.write_report(str(run)) == (run / "report.md", run / "report.html")
    for call in (pocketvit.read_model, pocketvit.load, pocketvit.summarise):
        for path in (str(tmp_path / "none.onnx"), tmp_path / "none.onnx"):
            with pytest.raises(PocketVitError, match=r"none\.onnx"):
                call(path)
    for files in (["none.onnx"], "none.onnx"):
        with pytest.raises(PocketVitError, match=r"none\.onnx"):
            pocketvit.bench(files)
