"""The benchmark of exported files over draws: its lines, its table, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import real_exports
from cutting.pictures import Pictures
from cutting.subject import Subject

from compress.data.load import load_data
from compress.model.load import ModelSpec, load_model
from runtime import Preprocessing, open_engine

SPEC = ModelSpec("vit_tiny_patch16_224", 16, 4, 1, overrides={"embed_dim": 32, "depth": 2, "num_heads": 2})
INPUT = Preprocessing(16, 16, 1, (0.5,), (0.5,), "bilinear", "stretch")
WORDS = ["--model", "m", "--checkpoint", "c", "--data", "digits", "--threads", "1"]


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Subject:
    made = Subject(SPEC, load_model(SPEC, 10, seed=4), (Pictures("data", load_data("digits"), INPUT, True, 30),), 64)
    monkeypatch.setattr(real_exports, "load_subject", lambda *given, **named: made)
    monkeypatch.setattr(real_exports.torch, "set_num_threads", lambda count: None)
    return made


def test_every_file_is_run_on_all_test_images_and_not_measured_again(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--formats", "int8-full", "--draws", "2", "--out", str(tmp_path)]
    real_exports.main(words)
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["draw"], line["images"]) for line in lines] == [("int8-full", n, 30) for n in (0, 1)]
    assert lines[0]["sqnr_db"] != lines[1]["sqnr_db"]
    assert all(line["sqnr_db"] > 10 for line in lines)
    printed = capsys.readouterr().out
    assert re.search(r"^\| int8-full \| `static_wi8_ai8_[^|]*` \| 2 \| 30 \|", printed, re.MULTILINE)
    monkeypatch.setattr(real_exports, "export_each", None)
    real_exports.main(words)
    again = capsys.readouterr().out
    assert printed.endswith(again)


def test_a_cut_model_is_compared_with_itself_in_float32(subject: Subject, tmp_path: Path) -> None:
    real_exports.main([*WORDS, "--formats", "fp32", "--cut", "macs=0.75", "--out", str(tmp_path)])
    (line,) = (json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines())
    assert line["sqnr_db"] is None or line["sqnr_db"] > 80
    whole = load_model(SPEC, 10, seed=4)
    (file,) = tmp_path.glob("macs-0.75/0/*.tflite")
    assert file.stat().st_size < 4 * sum(value.numel() for value in whole.parameters())
    assert open_engine(file) is not None


def test_a_row_is_the_mean_of_the_draws_with_its_standard_error() -> None:
    figures = {"kind": "int8", "images": 1000, "recipe": "dynamic", "bytes": 2_000_000, "seconds": 30.0}
    lines = [
        {**figures, "sqnr_db": sqnr, "agreement": 0.98, "top1": 0.8, "float_top1": 0.81, "refused": refused}
        for sqnr, refused in ((28.0, None), (30.0, "It loses too much."))
    ]
    row = real_exports.table(lines).splitlines()[-1]
    assert row.startswith("| int8 | `dynamic` (1 refused) | 2 | 1,000 | 2.0 | 29.0 ± 1.0 | 98.00 ± 0.00 |")
    assert row.endswith("| 80.00 ± 0.00 | 1.00 ± 0.00 | 30 |")


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        real_exports.main([*WORDS, "--formats", "int8,magic", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "Got magic" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
