from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from compress.model.folder import Task, read_model, read_task, save_model, weights_sha256
from compress.model.slicing import slice_vit
from compress.model.vit import SlicedViT, build
from runtime import ArtifactError, Preprocessing, StorageError
from tests.compress.strategies import kepts
from tests.compress.tiny import ARCHITECTURES, SPEC, TINY_PLAN, images_for, sliced_model, tiny_vit

TASK = Task("imagefolder:/tmp/päth", 3, 500, SPEC, ("cat", "dög", "a/b"), "fresh weights, seed 0", False)


@pytest.mark.parametrize("key", ARCHITECTURES)
@given(data=st.data())
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_model_comes_back_bit_for_bit(tmp_path: Path, key: str, data: st.DataObject) -> None:
    model = slice_vit(sliced_model(key), data.draw(kepts(sliced_model(key).plan)))
    save_model(tmp_path / "run" / "sliced", model, TASK)
    read = read_model(tmp_path / "run" / "sliced")
    assert read.plan == model.plan
    assert read.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in read.state_dict().items())
    assert not read.training
    assert weights_sha256(read) == weights_sha256(model)
    with torch.no_grad():
        images = images_for(model.plan)
        assert torch.equal(read(images), model(images))


@pytest.mark.parametrize(
    "task",
    [
        TASK,
        replace(TASK, train_limit=None, trained=True),
        replace(
            TASK, preprocessing=Preprocessing(7, 9, 3, (0.1, 0.2, 1 / 3), (1e-3, 1.0, 2.0), "lanczos", "stretch", 0.875)
        ),
    ],
)
def test_a_task_comes_back(tmp_path: Path, task: Task) -> None:
    save_model(tmp_path, tiny_vit(), task)
    assert read_task(tmp_path) == task
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "plan.json", "task.json"]
    document = json.loads((tmp_path / "task.json").read_text(encoding="utf-8"))
    assert (document["schema"], document["schema_version"]) == ("pocketvit.task", 3)


def test_a_model_with_nan_is_refused_by_name(tmp_path: Path) -> None:
    save_model(tmp_path, tiny_vit(), TASK)
    weights = load_file(tmp_path / "model.safetensors")
    weights["blocks.1.norm1.bias"][2] = float("nan")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"'blocks\.1\.norm1\.bias'.* 1 of 16 values .*NaN"):
        read_model(tmp_path)


def test_a_model_is_replaced_by_the_next(tmp_path: Path) -> None:
    save_model(tmp_path, tiny_vit(), TASK)
    save_model(tmp_path, tiny_vit(seed=1), TASK)
    assert weights_sha256(read_model(tmp_path)) == weights_sha256(tiny_vit(seed=1))


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Cannot write"):
        save_model(tmp_path / "file", tiny_vit(), TASK)


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    save_model(tmp_path, tiny_vit(), TASK)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} does not exist"):
        read_model(tmp_path)
    (tmp_path / "task.json").unlink()
    with pytest.raises(ArtifactError, match=r"task\.json does not exist"):
        read_task(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_named(tmp_path: Path, name: str, share: float) -> None:
    save_model(tmp_path, tiny_vit(), TASK)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: min(int(share * len(content)), len(content) - 3)])
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        read_model(tmp_path)


def _rewrite(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return damage


def _plan_with(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        document = json.loads((folder / "plan.json").read_text())
        (folder / "plan.json").write_text(json.dumps(document | changes))

    return damage


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_rewrite(lambda w: w.pop("head.bias")), "'head.bias' is missing"),
        (_rewrite(lambda w: w.update(more=torch.zeros(2))), "'more' is unknown"),
        (_rewrite(lambda w: w.update(cls_token=torch.zeros(1, 1, 8))), "'cls_token' does not fit the plan"),
        (_plan_with(embed_dim=24), "does not fit the plan"),
        (_plan_with(embed_dim=20), "embed_dim must be a positive multiple of 8"),
        (_plan_with(layer_scale=True), "gamma1' is missing"),
        (_plan_with(schema_version=99), "newer PocketViT"),
        (_plan_with(schema="pocketvit.task"), "another kind of document"),
    ],
)
def test_weights_and_plan_must_fit(tmp_path: Path, damage: Callable[[Path], None], text: str) -> None:
    save_model(tmp_path, tiny_vit(), TASK)
    damage(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        read_model(tmp_path)
    assert text in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"split_seed": "3"}, {"trained": 1}, {"class_names": "cat"}, {"preprocessing": {}}, {"extra": 1}, {"data": None}],
)
def test_a_damaged_task_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_model(tmp_path, tiny_vit(), TASK)
    document = json.loads((tmp_path / "task.json").read_text())
    (tmp_path / "task.json").write_text(json.dumps(document | changes))
    with pytest.raises(ArtifactError, match=r"task\.json"):
        read_task(tmp_path)
    (tmp_path / "task.json").write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        read_task(tmp_path)


def _copy(model: SlicedViT) -> SlicedViT:
    return build(model.plan, model.state_dict())


def test_the_hash_changes_with_any_weight() -> None:
    model = tiny_vit()
    hashes = {weights_sha256(model)}
    assert len(next(iter(hashes))) == 64
    names = list(model.state_dict())
    for name in names:
        changed = _copy(model)
        with torch.no_grad():
            flat = changed.state_dict()[name].view(-1)
            flat[-1] = torch.nextafter(flat[-1], torch.tensor(9.0))
        hashes.add(weights_sha256(changed))
    assert len(hashes) == len(names) + 1


def test_the_hash_is_of_the_weights_alone() -> None:
    model = tiny_vit()
    assert weights_sha256(_copy(model)) == weights_sha256(model)
    assert weights_sha256(_copy(model).train()) == weights_sha256(model)
    swapped = _copy(model)
    with torch.no_grad():
        swapped.blocks[0].norm1.weight.copy_(model.blocks[0].norm2.weight)
        swapped.blocks[0].norm2.weight.copy_(model.blocks[0].norm1.weight)
    assert weights_sha256(swapped) != weights_sha256(model)
    assert weights_sha256(tiny_vit(replace(TINY_PLAN, num_classes=4))) != weights_sha256(model)
