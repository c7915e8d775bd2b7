"""A criterion of importance, with a change of basis, from one file outside the package."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from compress.importance.base import ImportanceInputs
from compress.model.folder import read_model
from compress.model.slicing import KeptUnits, slice_vit
from runtime import PLAN_DOCUMENT, decode, macs
from runtime.storage.journals import STEPS_JOURNAL
from tests.compress.tiny import images_for, tiny_vit
from tests.pocketvit.conftest import TINY

from .plugins import run

PLUGIN = '''
"""Scores units by the energy of their activations; values of every head in the principal axes of its weights."""

import torch

from compress.importance import CRITERIA
from compress.importance.base import Criterion
from compress.importance.units import BlockImportance, Importance
from compress.model.vit import build


def fold(inputs):
    weights = dict(inputs.model.state_dict())
    for i, block in enumerate(inputs.model.plan.blocks):
        own = f"blocks.{i}.attn."
        for head in range(block.num_heads):
            rows = slice(head * block.v_dim, (head + 1) * block.v_dim)
            axes = torch.linalg.svd(weights[own + "v.weight"][rows])[0]
            for name in ("v.weight", "v.bias"):
                weights[own + name] = weights[own + name].clone()
                weights[own + name][rows] = axes.T @ weights[own + name][rows]
            weights[own + "proj.weight"] = weights[own + "proj.weight"].clone()
            weights[own + "proj.weight"][:, rows] = weights[own + "proj.weight"][:, rows] @ axes
    return build(inputs.model.plan, weights)


def measure(inputs):
    sums = {}

    def keep(name, values):
        sums[name] = sums.get(name, 0) + values.detach().double().flatten(0, -2).square().mean(0)

    hooks = []
    for i, block in enumerate(inputs.model.blocks):
        for part in "qkv":
            layer = getattr(block.attn, part)
            hooks.append(layer.register_forward_hook(lambda m, x, y, name=f"{i}.{part}": keep(name, y)))
        hooks.append(block.norm1.register_forward_hook(lambda m, x, y: keep("embed", x[0])))
        hooks.append(block.mlp.fc2.register_forward_hook(lambda m, x, y, name=f"{i}.mlp": keep(name, x[0])))
    with torch.no_grad():
        for images, _ in inputs.batches:
            inputs.model(images)
    for hook in hooks:
        hook.remove()
    blocks = []
    for i, block in enumerate(inputs.model.plan.blocks):
        qk = (sums[f"{i}.q"] * sums[f"{i}.k"]).reshape(block.num_heads, -1)
        v = sums[f"{i}.v"].reshape(block.num_heads, -1)
        blocks.append(BlockImportance(qk.numpy(), v.numpy(), sums[f"{i}.mlp"].numpy()))
    return Importance(sums["embed"].numpy(), tuple(blocks))


TOY = Criterion("toy", "energy of activations in the principal axes of the values", measure, fold)
CRITERIA.register("toy", TOY)
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "toy_basis.py").write_text(PLUGIN)
    return tmp_path


@pytest.fixture
def toy(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plug-in, imported without registering it."""
    monkeypatch.syspath_prepend(str(plugin))
    monkeypatch.setattr("compress.importance.CRITERIA.register", lambda name, own: own, raising=False)
    return importlib.import_module("toy_basis")


def test_the_folded_model_computes_the_same(toy: ModuleType) -> None:
    model, images = tiny_vit(), images_for(tiny_vit().plan)
    folded = toy.TOY.folded(ImportanceInputs(model, ()))
    torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-5)
    assert not torch.equal(folded.state_dict()["blocks.0.attn.v.weight"], model.state_dict()["blocks.0.attn.v.weight"])


@pytest.mark.slow
def test_a_run_goes_by_it_and_slices_the_folded_model(plugin: Path, toy: ModuleType) -> None:
    quick = ("--epochs", 1, "--recovery-epochs", 0, "--budget", "macs=0.6", "--no-reconstruct")
    asked = ("--importance", "toy", *quick, "--runs", plugin / "runs", "--name", "mine")
    done = run(plugin, "toy_basis", "compress", *TINY, *asked)
    assert done.returncode == 0, done.stderr
    root = plugin / "runs" / "mine"
    assert json.loads((root / "run.json").read_text())["settings"]["importance"] == "toy"
    header, *_, last = map(json.loads, (root / "search" / "journal.jsonl").read_text().splitlines())
    assert (header["schema"], header["settings"]["importance"]) == (STEPS_JOURNAL.schema, "toy")
    before, after = (PLAN_DOCUMENT.read(root / part / "plan.json") for part in ("baseline", "sliced"))
    assert macs(after) <= 0.6 * macs(before)
    folded = toy.TOY.folded(ImportanceInputs(read_model(root / "baseline"), ()))
    expected = slice_vit(folded, decode(KeptUnits, last["kept"], "kept")).state_dict()
    for name, value in read_model(root / "sliced").state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    again = run(plugin, "toy_basis", "compress", *TINY, *asked, "--resume")
    assert again.returncode == 0, again.stderr
    shown = run(plugin, "toy_basis", "report", root, "--json")
    assert shown.returncode == 0, shown.stderr
    assert {row["name"] for row in json.loads(shown.stdout)["rows"]} >= {"baseline", "sliced"}
    assert json.loads(shown.stdout)["made_with"]["importance"] == "toy"
    assert "importance toy" in (root / "report.html").read_text()
    assert "importance toy" in " ".join(run(plugin, "toy_basis", "report", root).stdout.split())


@pytest.mark.slow
def test_help_and_the_error_of_an_unknown_name_list_it(plugin: Path) -> None:
    page = run(plugin, "toy_basis", "run", "--help").stdout.replace("│", " ")
    assert "fisher, taylor, l2, random or toy" in " ".join(page.split())
    done = run(plugin, "toy_basis", "compress", "--importance", "tyo")
    assert done.returncode == 2
    assert "fisher, taylor, l2, random or toy" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_basis_that_changes_what_the_model_computes_is_refused(plugin: Path) -> None:
    path = plugin / "toy_basis.py"
    path.write_text(path.read_text().replace("rows] @ axes\n", "rows] @ axes * 1.1\n"))
    quick = ("--epochs", 1, "--recovery-epochs", 0, "--budget", "macs=0.6", "--runs", plugin / "runs")
    done = run(plugin, "toy_basis", "compress", *TINY, "--importance", "toy", *quick)
    assert done.returncode == 2
    assert "The criterion toy does not keep the model the same in its basis" in " ".join(done.stderr.split())
