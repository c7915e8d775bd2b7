"""A kind of exported file from one file outside the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pocketvit.conftest import TINY

from .plugins import run

pytestmark = pytest.mark.slow

PLUGIN = '''
"""ONNX files in float32 with a line of text, and ONNX files of integers by a recipe of their own."""

from dataclasses import replace

from export.formats import KINDS, ExportKind
from export.formats.onnx import onnx_form, write_onnx
from export.quantise.recipes import CORRECT_BIASES, RECIPES, Ranges, Recipe


def write_signed(model, path, opset):
    import onnx

    write_onnx(model, path, opset=opset)
    file = onnx.load(path)
    file.doc_string = "made by a plug-in"
    onnx.save(file, path)


SIGNED = ExportKind(
    "signed",
    "ONNX with a line of text",
    format="onnx",
    precision="fp32-signed",
    label="signed",
    recipe="signed_fp32",
    write=write_signed,
    options=("opset",),
    held_to="logits",
)
KINDS.register("signed", SIGNED)
KINDS.register(
    "narrow", replace(SIGNED, name="narrow", precision="narrow", label="narrow", recipe="", write=None,
                      form=onnx_form, held_to="nothing")
)
RECIPES.register(
    "narrow_wi8",
    Recipe("narrow_wi8", "integer", ranges=Ranges("percentile"), passes=CORRECT_BIASES, kinds=("narrow",)),
)
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "toy_kind.py").write_text(PLUGIN)
    return tmp_path


def test_it_is_in_the_help_and_among_the_choices(plugin: Path) -> None:
    shown = run(plugin, "toy_kind", "export", "--help")
    assert "tflite-micro, signed or narrow" in " ".join(shown.stdout.replace("│", " ").split())
    refused = run(plugin, "math", "export", "--model", "vit_tiny_patch16_224", "--no-pretrained", "--formats", "signed")
    assert refused.returncode == 2
    assert "signed" in refused.stderr


def test_it_is_exported_benched_and_reported(plugin: Path) -> None:
    folder = plugin / "runs" / "mine"
    export = ("export", *TINY, "--no-pretrained", "--formats", "signed,narrow", "--runs", plugin / "runs")
    done = run(plugin, "toy_kind", *export, "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert "mine.signed.onnx" in done.stdout
    again = run(plugin, "toy_kind", *export, "--name", "mine", "--resume", "--json")
    assert again.returncode == 0, again.stderr
    signed, narrow = json.loads(again.stdout)["artifacts"]
    assert (signed["precision"], signed["recipe"], signed["asked"]) == ("fp32-signed", "signed_fp32", {"opset": 17})
    assert signed["parity"]["top1_agreement"] == 1.0
    assert (narrow["recipe"], [trial["recipe"] for trial in narrow["trials"]]) == ("narrow_wi8", ["narrow_wi8"])

    files = [folder / "artifacts" / one["file"] for one in (signed, narrow)]
    result = folder / "bench" / "cpu.json"
    result.parent.mkdir(exist_ok=True)
    done = run(plugin, "toy_kind", "bench", *files, "--samples", 5, "--throughput", 0, "--json", result)
    assert done.returncode == 0, done.stderr
    assert [file["precision"] for file in json.loads(result.read_text())["files"]] == ["fp32-signed", "narrow"]
    done = run(plugin, "toy_kind", "report", folder)
    assert done.returncode == 0, done.stderr
    assert all(file.name in done.stdout for file in files)
    html = (folder / "report.html").read_text()
    assert all(file.name in html for file in files)
    assert "narrow_wi8" in html
