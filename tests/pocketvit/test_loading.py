"""``pocketvit.load`` takes files and folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pocketvit
from compress.fidelity import selection
from compress.in_memory.cut_model import CutModel
from compress.model.folder import Task, save_model
from compress.model.slicing import KeptUnits, keep_all, slice_vit
from compress.model.vit import SlicedViT
from runtime import ModelError, PlanError, RunFolderError
from tests.compress.tiny import SPEC, TINY_PLAN, images_for, tiny_vit

ROOT = Path(__file__).resolve().parents[2]
TASK = Task("toy", 0, None, SPEC, ("a", "b", "c"), "a test", True)
KEPT = KeptUnits(tuple(range(8)), keep_all(TINY_PLAN).blocks)


def make_run(root: Path, sliced: SlicedViT | None, known: bool = True) -> Path:
    """Writes the models of a run."""
    save_model(root / "baseline", tiny_vit(), TASK)
    if sliced is not None:
        save_model(root / "sliced", sliced, TASK)
        if known:
            selection(KEPT.embed, TINY_PLAN.embed_dim).write(root / "sliced")
    return root


def test_a_run_folder_gives_both_its_models(tmp_path: Path) -> None:
    sliced, images = slice_vit(tiny_vit(), KEPT), images_for(TINY_PLAN)
    run = make_run(tmp_path / "run", sliced)
    model, whole = pocketvit.load(run), pocketvit.load(str(run), which="baseline")
    assert isinstance(model, CutModel)
    assert not model.training
    assert torch.equal(model(images), sliced(images))
    assert torch.equal(whole(images), tiny_vit()(images))
    assert (model.plan, model.preprocessing, model.class_names) == (sliced.plan, SPEC, ("a", "b", "c"))
    assert torch.equal(whole.forward_features(images), tiny_vit().features(images)[1])
    padded = torch.zeros(2, TINY_PLAN.embed_dim)
    padded[:, :8] = sliced.features(images)[1].detach()
    assert torch.equal(model.forward_features(images).detach(), padded)
    again = pocketvit.load(run)
    again.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})
    assert not torch.equal(again(images), model(images))


def test_a_saved_model_is_loaded_with_all_that_came_with_it(tmp_path: Path) -> None:
    model = pocketvit.load(make_run(tmp_path / "run", slice_vit(tiny_vit(), KEPT)))
    with torch.no_grad():
        model.network.head.bias.add_(1)
    model.save(tmp_path / "own")
    again, images = pocketvit.load(tmp_path / "own"), images_for(TINY_PLAN)
    assert torch.equal(again(images), model(images))
    assert torch.equal(again.forward_features(images), model.forward_features(images))
    assert (again.class_names, again.preprocessing) == (model.class_names, model.preprocessing)
    with pytest.raises(RunFolderError, match="holds no baseline model"):
        pocketvit.load(tmp_path / "own", which="baseline")


def test_features_whose_map_is_unknown_are_refused_and_a_model_without_preprocessing_is_not_saved(
    tmp_path: Path,
) -> None:
    model = pocketvit.load(make_run(tmp_path / "run", slice_vit(tiny_vit(), KEPT), known=False))
    assert model(images_for(TINY_PLAN)).shape == (2, 3)
    with pytest.raises(ModelError, match="The map of this model's features"):
        model.forward_features(images_for(TINY_PLAN))
    with pytest.raises(ModelError, match="The preprocessing of this model is not known"):
        CutModel(tiny_vit(), None).save(tmp_path / "own")
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("options", "kind", "error"),
    [
        ({}, RunFolderError, "holds no sliced model. Expected a run folder with sliced/model.safetensors"),
        ({"which": "teacher"}, PlanError, "Expected sliced or baseline. Got 'teacher'"),
        ({"threads": 2}, PlanError, "whose model torch computes"),
    ],
)
def test_what_a_folder_does_not_hold_is_refused(
    tmp_path: Path, options: dict[str, Any], kind: type[Exception], error: str
) -> None:
    run = make_run(tmp_path / "run", None)
    with pytest.raises(kind) as caught:
        pocketvit.load(run, **options)
    assert error in str(caught.value)


def test_a_file_has_no_baseline() -> None:
    with pytest.raises(PlanError, match="a run folder alone has a baseline"):
        pocketvit.load(ROOT / "tests" / "golden" / "tiny-fp32.tflite", which="baseline")


def test_a_file_is_loaded_without_torch() -> None:
    code = (
        "import sys, pocketvit\n"
        "try:\n    pocketvit.load('tests/golden/none.tflite')\n"
        "except pocketvit.PocketVitError as error:\n    print(error)\n"
        "print([name for name in ('torch', 'timm', 'compress.in_memory.cut') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "none.tflite" in done.stdout
    assert done.stdout.endswith("[]\n")
