"""A slice of the census, and what it says of models that are wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import census
import pytest

NAMES = (
    "aimv2_large_patch14_224",
    "beit3_base_patch16_224",
    "eva02_large_patch14_clip_336",
    "eva_giant_patch14_224",
    "test_vit4",
    "vit_base_patch16_rope_reg1_gap_256",
    "vit_base_patch16_sapiens2",
    "vit_giant_patch14_reg4_dinov2",
    "vit_pe_spatial_tiny_patch16_512",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_rope_mixed_ape_224",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_equals_timm_whole_and_the_masked_model_when_cut(name: str) -> None:
    found = census.count(name)
    assert found.sound, found
    assert found.reason is None
    assert "depth=2" in (found.built or "")


def test_a_census_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "out" / "census.jsonl"
    first = census.take(["swin_tiny_patch4_window7_224"], path, 60)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"name": "cut off')
    assert census.read(path) == first
    assert census.take(list(first), path, 60) == first
    assert first["swin_tiny_patch4_window7_224"].reason == "window attention"


def test_the_table_names_reasons_and_what_is_wrong() -> None:
    good = census.Counted("a", "Eva", None, 1, 1, 1e-7, 2e-7, "depth=2")
    wrong = replace(good, name="b", cut=1e-3)
    refused = census.Counted("c", "Eva", "a part", 1, None)
    assert good.sound
    assert not wrong.sound
    text = census.table([good, wrong, refused])
    assert "| Eva | 3 | 1 | 2.0e-07 | WRONG: b (1); a part (1) |" in text
    assert text.endswith("| **all** | **3** | **1** | | |")
