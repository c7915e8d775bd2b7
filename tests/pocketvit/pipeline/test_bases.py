"""A run in the best bases: what it records, how it goes on after a stop, and what it leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pocketvit
from compress.bases.counts import images_to_see
from compress.data.batches import plain_batches
from compress.fidelity import fidelity
from compress.model.coordinates import Coordinates, read_coordinates
from compress.model.folder import read_model, weights_sha256
from compress.search.base import GroupSizes
from pocketvit import RunSettings, TrainSettings
from pocketvit.pipeline import stages
from pocketvit.pipeline.bases import bases_path, basis_images, images_for_bases, with_copies
from pocketvit.pipeline.job import prepare
from pocketvit.pipeline.runfolder import RunFolder
from runtime import METRICS_DOCUMENT, MULTIPLE, PlanError, PocketVitWarning
from tests.pocketvit.conftest import TINY, Command

pytestmark = pytest.mark.slow

SETTINGS = RunSettings(
    model="vit_tiny_patch16_224",
    img_size=32,
    patch_size=8,
    model_args={"embed_dim": 48, "depth": 2, "num_heads": 3},
    fine_tune=TrainSettings(epochs=2, batch_size=32),
    recover=TrainSettings(epochs=0),
    budget="macs=0.5",
    train_limit=300,
    basis_images=64,
    threads=1,
)


def header(root: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((root / "search" / "journal.jsonl").read_text().splitlines()[0])["settings"]
    return settings


def reconstructed(root: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (root / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "reconstructed"]


def test_a_run_says_so_follows_the_whole_model_and_clears_up(tmp_path: Path) -> None:
    pocketvit.compress(SETTINGS, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert header(folder.root)["importance"] == "loss"
    assert header(folder.root)["basis"] == "best"
    assert not bases_path(folder.journal.parent).exists()
    sliced, baseline = read_model(folder.sliced), read_model(folder.baseline)
    assert sliced.plan.norm_type == "rms"
    for block in sliced.plan.blocks:
        assert not any(width % MULTIPLE for width in (block.qk_dim, block.v_dim, block.mlp_dim))
    job = prepare(SETTINGS)
    back = read_coordinates(folder.sliced)
    found = fidelity(sliced, baseline, job.data, job.data.test, job.task.preprocessing, back=back)
    (events,) = reconstructed(folder.root)
    assert found.cosine is not None
    assert found.cosine > 0.97
    assert METRICS_DOCUMENT.read(folder.sliced / "metrics.json").test_whole is not None
    assert events["kept"] == (events["after"]["cosine"] >= events["before"]["cosine"])
    # the same cut of units as they are is farther away
    pocketvit.compress(replace(SETTINGS, basis="units", search="milp"), tmp_path / "units")
    units = METRICS_DOCUMENT.read(tmp_path / "units" / "sliced" / "metrics.json").test_whole
    assert units is None or units.cosine is None or units.cosine < found.cosine


def test_nothing_to_cut_leaves_the_function_as_it_is(tmp_path: Path) -> None:
    pocketvit.compress(replace(SETTINGS, budget="macs=1"), tmp_path / "whole")
    folder, job = RunFolder(tmp_path / "whole"), prepare(SETTINGS)
    images, _ = next(iter(plain_batches(job.data, job.data.test[:8], job.task.preprocessing, 8)))
    with torch.no_grad():
        before, after = (read_model(place)(images) for place in (folder.baseline, folder.sliced))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5 * float(before.abs().max()))


def test_a_run_stopped_before_the_cut_goes_on_with_the_same_analysis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pocketvit.compress(SETTINGS, tmp_path / "straight")

    def stopped(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stages, "cut_in_bases", stopped)
        with pytest.raises(KeyboardInterrupt):
            pocketvit.compress(SETTINGS, tmp_path / "stopped")
    folder = RunFolder(tmp_path / "stopped")
    assert bases_path(folder.journal.parent).is_file()
    with monkeypatch.context() as patched:
        # an analysis from nothing would need this
        patched.setattr("pocketvit.pipeline.bases.analyse", stopped)
        pocketvit.compress(SETTINGS, tmp_path / "stopped", resume=True)
    straight = RunFolder(tmp_path / "straight")
    assert weights_sha256(read_model(folder.sliced)) == weights_sha256(read_model(straight.sliced))
    assert not bases_path(folder.journal.parent).exists()


@pytest.mark.parametrize("search", ["greedy", "dfbnb", "uniform", "milp"])
def test_other_searches_take_the_best_bases_too(search: str, tmp_path: Path, pocketvit: Command) -> None:
    more = ("--iterations", 2, "--round-epochs", 0) if search == "dfbnb" else ()
    answer = pocketvit(
        *("compress", *TINY, "--epochs", 1, "--recovery-epochs", 0, "--search", search, "--group-size", "mlp=32"),
        *("--basis-images", 32, "--budget", "macs=0.7", "--runs", tmp_path, "--name", search, *more),
    )
    assert answer.code == 0, answer.err
    assert read_model(tmp_path / search / "sliced").plan.norm_type == "rms"
    assert not list((tmp_path / search).rglob("bases.safetensors"))


@pytest.mark.parametrize(
    ("ratio", "changes", "groups"),
    [
        (4, {}, GroupSizes()),
        (22, {}, GroupSizes(mlp=32, qk=16)),
        (22, {"group_sizes": {"mlp": 64, "v": 16}}, GroupSizes(mlp=64, qk=16, v=16)),
        (22, {"basis": "units"}, GroupSizes()),
    ],
)
def test_wide_mlps_of_classifiers_are_cut_in_larger_steps_in_the_best_bases(
    ratio: int, changes: dict[str, Any], groups: GroupSizes
) -> None:
    shape = {"model_args": {**SETTINGS.model_args, "mlp_ratio": ratio}}
    assert prepare(replace(SETTINGS, **shape, **{"basis": "best", **changes})).groups == groups


def test_images_are_drawn_without_labels_and_copied() -> None:
    job = prepare(SETTINGS)
    assert images_for_bases(job) == 64
    assert images_for_bases(replace(job, settings=replace(SETTINGS, basis_images=0))) == 2048
    blind = replace(job, data=replace(job.data, labels=job.data.labels * 0))
    images = basis_images(job, 64, 0)
    assert images.shape == (64, 1, 32, 32)
    assert torch.equal(images, basis_images(blind, 64, 0))
    assert not torch.equal(images, basis_images(job, 64, 1))
    assert len(basis_images(job, 2 * len(job.data.train), 0)) == len(job.data.train)
    seen = with_copies(job, images, 0)
    assert len(seen) == images_to_see(64, job.plan.num_tokens) > 64
    assert torch.equal(seen, with_copies(job, images, 0))
    assert not torch.equal(seen, with_copies(job, images, 1))
    alone = with_copies(replace(job, settings=replace(SETTINGS, basis_copies=0)), images, 0)
    assert sorted(own.sum().item() for own in alone) == sorted(own.sum().item() for own in images)


def test_few_images_are_noticed(tmp_path: Path) -> None:
    with pytest.warns(PocketVitWarning, match="from 40 images"):
        pocketvit.compress(replace(SETTINGS, train_limit=40, importance="", seed=1), tmp_path / "few")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"basis": "best", "search": "tas"}, "tas cuts the units of the model as they are"),
        ({"basis": "best", "search": "dfbnb", "tree": {"exact": True}}, "dfbnb with --exact cuts the units"),
        ({"basis_images": 3}, "--basis-images is a number of images"),
        ({"basis_copies": -1}, "--basis-copies is a number of copies"),
        ({"basis": "other"}, "basis"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    if "tree" in changes:
        changes = changes | {"tree": replace(SETTINGS.tree, **changes["tree"])}
    with pytest.raises(PlanError, match=message):
        replace(SETTINGS, **changes)


def test_which_runs_take_the_best_bases() -> None:
    best = [name for name in ("one-shot", "milp", "uniform", "greedy", "dfbnb", "tas") if asked(name).in_best_bases]
    assert best == ["one-shot", "milp", "uniform", "greedy", "dfbnb"]
    assert not replace(SETTINGS, importance="fisher").in_best_bases
    assert replace(SETTINGS, importance="l2", basis="best").in_best_bases
    assert not replace(asked("dfbnb"), tree=replace(SETTINGS.tree, exact=True)).in_best_bases


def asked(search: str) -> RunSettings:
    return replace(SETTINGS, search=search)


def test_maps_of_coordinates_compose() -> None:
    one, two = (Coordinates(torch.randn(a, b), torch.randn(b)) for a, b in ((3, 4), (4, 5)))
    x = torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(one.then(two).of(x), two.of(one.of(x)), rtol=1e-5, atol=1e-5)
