from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import compress_quality
from benchmarks.compress_quality import METHODS, USUAL, Asked, Cell, against, folder_of, read_cells, report, work
from benchmarks.quality_setting import BASELINE, SPEC, locked, mean_sd
from benchmarks.torch_pruned import sliced_of, timm_of
from compress.model.load import load_model

CELL = Cell(0, BASELINE, 100, 10, 1.0, 1.0, None, 0.9, None, 0.9, 0.0, 5.0, 0, [192])


def cell(seed: int, method: str, top1: float) -> Cell:
    return replace(CELL, seed=seed, method=method, macs_share=0.745, params_share=0.74, top1_before=0.5, top1=top1)


def test_every_cell_is_made_once_and_baselines_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(out: Path, seed: int, method: str, asked: Asked) -> Cell:
        made.append((seed, method))
        return replace(CELL, seed=seed, method=method)

    monkeypatch.setattr(compress_quality, "make", make)
    cells = [(seed, method) for method in ("milp", BASELINE) for seed in (0, 1)]
    work(tmp_path, cells)
    work(tmp_path, cells)
    assert sorted(made) == sorted(cells)
    assert all(made.index((seed, BASELINE)) < made.index((seed, "milp")) for seed in (0, 1))
    assert {(c.seed, c.method) for c in read_cells(tmp_path)} == set(cells)


def test_cells_of_another_budget_are_kept_apart_and_share_the_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    tops = {USUAL: 0.9, Asked("macs=0.35"): 0.5, Asked("macs=0.35", 0.5): 0.4, Asked(epochs=0.5): 0.8}

    def make(out: Path, seed: int, method: str, asked: Asked) -> Cell:
        made.append((method, asked))
        return replace(CELL, method=method, top1=tops[asked])

    monkeypatch.setattr(compress_quality, "make", make)
    cells = [(0, BASELINE), (0, "milp")]
    for asked in tops:
        work(tmp_path, cells, asked)
    assert made == [(BASELINE, USUAL), *(("milp", asked) for asked in tops)]
    for asked, top1 in tops.items():
        assert {c.method: c.top1 for c in read_cells(tmp_path, asked)} == {BASELINE: 0.9, "milp": top1}


def test_a_cell_is_worked_on_by_one_at_a_time(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 0, "milp")
    with locked(folder) as mine:
        with locked(folder) as other:
            assert mine
            assert not other
    with locked(folder) as again:
        assert again


def test_differences_are_taken_seed_by_seed() -> None:
    ours, theirs = ({s: cell(s, "milp", t) for s, t in tops.items()} for tops in ({0: 0.9, 1: 0.8}, {1: 0.75, 2: 0.1}))
    assert against(ours, theirs) == "+5.00"
    assert against(ours, ours) == ""
    assert mean_sd([1.0, 3.0]) == "2.00 ± 1.41"
    assert mean_sd([]) == "-"


def test_the_report_has_a_row_for_every_method_there_is() -> None:
    cells = [replace(CELL, seed=s) for s in (0, 1)] + [cell(s, m, 0.88 + 0.01 * s) for s in (0, 1) for m in METHODS[:2]]
    text = report(cells)
    assert "| dfbnb | 74.5 % | 74.0 % | 50.00 ± 0.00 % | 88.50 ± 0.71 % | -1.50 ± 0.71 | 0 s | 0/0 |" in text
    assert f"| {METHODS[1]} |" in text
    assert f"| {METHODS[2]} |" not in text


@pytest.mark.slow
def test_a_model_goes_to_timm_and_back() -> None:
    model = load_model(SPEC, 10, seed=3)
    other = timm_of(model, SPEC)
    back = sliced_of(other, {block.attn.qkv: block.attn.num_heads for block in other.blocks})
    assert back.plan == model.plan
    own, theirs = model.state_dict(), back.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
