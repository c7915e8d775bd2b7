"""A slice of the census of exports, and what it says of models that are wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import export_census
import export_groups
import pytest
import torch
from export_census import Exported
from export_groups import Grouped

SLICE = ("test_efficientnet", "test_resnet", "test_convnext2", "mobilevitv2_050", "swin_tiny_patch4_window7_224")


@pytest.mark.usefixtures("converters")
@pytest.mark.slow
@pytest.mark.parametrize("name", SLICE)
def test_both_files_of_a_graph_keep_the_logits_of_torch(name: str) -> None:
    one = export_census.isolated(Exported("", name, ""))  # in its own process: JAX must not stay in that of the tests
    assert one.sound, one


@pytest.mark.parametrize("name", SLICE)
def test_blocks_that_repeat_are_left_out_and_the_rest_runs(name: str) -> None:
    small, image = export_census.smaller(name)
    whole = export_groups.without_weights(name)
    assert len(list(small.modules())) <= len(list(whole.modules()))
    export_census.disturb(small)
    with torch.no_grad():
        one, two = small(torch.randn(2, *image, generator=torch.Generator().manual_seed(0)))
    assert one.shape == (10,)
    assert not torch.allclose(one, two)


def test_architectures_that_differ_in_depth_and_width_have_one_graph() -> None:
    graphs = {name: export_groups.group(name, False).graph for name in ("resnet50", "resnet101", "resnet18")}
    assert graphs["resnet50"] == graphs["resnet101"] != graphs["resnet18"]


def test_the_smallest_of_each_graph_stands_for_it_and_the_classes_take_turns() -> None:
    groups = [
        Grouped("large", "A", False, "1", 20),
        Grouped("small", "A", False, "1", 10),
        Grouped("other", "A", False, "2", 30),
        Grouped("b", "B", False, "3", 40),
        Grouped("own", "", True, "", 0),
    ]
    assert [own.name for own in export_groups.representatives(groups)] == ["small", "b", "other"]


def test_a_census_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = tmp_path / "exports.jsonl", []

    def isolated(one: Exported) -> Exported:
        asked.append(one.name)
        return replace(one, onnx=1e-6, tflite=1e-6 if one.name == "good" else 1e-2)

    monkeypatch.setattr(export_census, "isolated", isolated)
    chosen = [Grouped("good", "A", False, "1", 1), Grouped("bad", "A", False, "2", 1)]
    export_census.take(chosen[:1], path, 60)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"graph": "cut off\n')
    export_census.take(chosen, path, 60)
    assert asked == ["good", "bad"]
    export_census.take(chosen, path, 60, again=True)
    assert asked == ["good", "bad", "bad"]
    text = export_census.table(chosen, export_census.read(path))
    assert "| A | 2 | 2 | 1 | 1.0e-06 | TFLite differs by 1e-02 (1) |" in text
    assert text.endswith("| **all** | **2** | **2** | **1** | | |")


def test_an_encoder_is_refused_by_name_and_counts_apart(tmp_path: Path) -> None:
    (one,) = export_census.export(Exported("3", "qwen3_vit_88m_enc", "B"), tmp_path)
    assert one.settled
    assert not one.sound
    assert "'qwen3_vit_88m_enc' is an encoder and no classifier" in (one.refused or "")
    groups = [Grouped("good", "A", False, "1", 1), Grouped("qwen3_vit_88m_enc", "B", False, "3", 1)]
    found = {"1": Exported("1", "good", "A", onnx=1e-6, tflite=1e-6), "3": one}
    *_, last, apart = export_census.table(groups, found).splitlines()
    assert last == "| **all** | **1** | **1** | **1** | | |"
    assert apart == "| no classifiers, refused by name | 1 | 1 | | | B |"


def test_a_reason_has_no_colours_and_no_paths_of_packages() -> None:
    error = "E: \x1b[96mstep\x1b[0m of /home/me/lib/site-packages/timm/models/volo.py\nmore"
    assert export_census.reason(Exported("1", "a", "A", onnx=1e-6, tflite_error=error)) == (
        "TFLite: E: step of timm/models/volo.py"
    )
