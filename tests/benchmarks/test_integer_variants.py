"""The benchmark of integer variants: what each leaves out, and lines that are not measured again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import integer_variants
import pytest

from export.quantise.recipes import BOTH, CORRECT_BIASES, DYNAMIC, recipes_for


def test_each_variant_leaves_out_what_it_says() -> None:
    made = {name: integer_variants._varied(DYNAMIC, name) for name in integer_variants.VARIANTS}
    assert made["both"] == DYNAMIC
    assert [made[name].rotated for name in integer_variants.VARIANTS] == [True, False, True, False]
    with_it = [made[name].passes == BOTH for name in integer_variants.VARIANTS]
    assert with_it == [True, True, False, False]
    assert made["neither"].passes == CORRECT_BIASES


@dataclass
class Whole:
    digest: str = "digest"


def test_lines_that_are_there_are_printed_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(integer_variants, "load_subject", lambda *given, **named: Whole())
    monkeypatch.setattr(integer_variants.torch, "set_num_threads", lambda count: None)
    figures: dict[str, Any] = {"sqnr_db": 29.26, "agreement": 0.984, "lost_points": 0.1, "bytes": 22_200_000}
    figures |= {"seconds": 31.4, "peak_bytes": 2_100_000_000}
    lines = [
        {"key": ["digest", "int8", recipe.name, variant, 0], **figures}
        for recipe in recipes_for("int8")
        for variant in integer_variants.VARIANTS
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--model", "m", "--checkpoint", "c", "--data", "digits", "--only", "int8", "--out", str(tmp_path)]
    integer_variants.main([*words, "--recipes", DYNAMIC.name])
    printed = capsys.readouterr().out.splitlines()[2:]
    assert printed == [
        f"| int8 | `{DYNAMIC.name}` | {variant} | 0 | 29.3 | 98.40 % | +0.10 | 22.2 | 31 | 2.1 |"
        for variant in integer_variants.VARIANTS
    ]
