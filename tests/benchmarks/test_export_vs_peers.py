"""The benchmark beside other tools: a model with given weights, and what is compared."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import export_vs_peers as bench
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from compress.model.load import ModelSpec


def test_a_model_with_given_weights_is_taken_as_it_is(tmp_path: Path) -> None:
    whole = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=10)
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    spec = ModelSpec("vit_tiny_patch16_224", img_size=16, checkpoint=str(tmp_path / "weights.safetensors"))
    contest = bench.Contest(spec, "a title", None, 0, 50, 10, data="digits")
    model, task = bench.subject("given", contest, tmp_path / "model")
    assert torch.equal(model.head.weight, whole.head.weight)
    assert (task.data, task.preprocessing.height, task.preprocessing.channels) == ("digits", 16, 3)
    again, read = bench.subject("given", replace(contest, spec=ModelSpec("nothing")), tmp_path / "model")
    assert torch.equal(again.head.weight, model.head.weight)
    assert read == task


def test_unknown_contests_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["export_vs_peers.py", "--models", "given"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2
    assert "given with --model and --checkpoint. Got given" in capsys.readouterr().err


def test_answers_are_compared_with_those_of_torch() -> None:
    wanted = np.array([[4.0, 0.0], [0.0, 2.0]], np.float32)
    logits = np.array([[4.0, 0.0], [1.0, 0.0]], np.float32)
    answers = bench.compare(logits, wanted, np.array([0, 1]))
    assert (answers.top1, answers.agreement, answers.max_abs) == (0.5, 0.5, 0.5)
    assert answers.sqnr_db == pytest.approx(10 * math.log10(20 / 5))
    assert bench.compare(wanted, wanted, np.array([0, 1])).sqnr_db == math.inf
