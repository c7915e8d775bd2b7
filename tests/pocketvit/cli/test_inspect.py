from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from runtime import manifest_path, read_artifact
from tests.pocketvit.conftest import Command

pytestmark = pytest.mark.slow

SUFFIXES = ["onnx", "int8.onnx", "fp32.tflite", "int8.tflite", "int8-full.tflite"]


def copied(tiny_run: Path, folder: Path, suffix: str = "fp32.tflite") -> Path:
    file = tiny_run / "artifacts" / f"tiny.{suffix}"
    shutil.copy(manifest_path(file), folder)
    return Path(shutil.copy(file, folder))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_inspected(tiny_run: Path, pocketvit: Command, suffix: str) -> None:
    file = tiny_run / "artifacts" / f"tiny.{suffix}"
    answer = pocketvit("inspect", file, "--no-time", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["schema"] == "pocketvit.inspection"
    assert document["file"] == file.name
    assert sum(row["size_bytes"] for row in document["contents"]["sizes"]) == file.stat().st_size
    plan = read_artifact(file).plan
    assert document["widths"]["embed_dim"] == plan.embed_dim
    assert [block["mlp_dim"] for block in document["widths"]["blocks"]] == [block.mlp_dim for block in plan.blocks]
    assert document["times"] is None
    assert document["times_reason"]


def test_the_tables(tiny_run: Path, pocketvit: Command) -> None:
    answer = pocketvit("inspect", tiny_run / "artifacts" / "tiny.fp32.tflite")
    assert answer.code == 0, answer.err
    for text in ("FULLY_CONNECTED", "weights", "structure", "embed_dim", "in one piece", "blocks.1.mlp", "percentile"):
        assert text in answer.out
    assert "time: " in answer.err
    assert (
        "DELEGATE FALL-BACK" in pocketvit("inspect", tiny_run / "artifacts" / "tiny.int8-full.tflite", "--no-time").out
    )


def test_without_a_manifest_the_widths_have_a_reason(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    file = copied(tiny_run, tmp_path)
    manifest_path(file).unlink()
    document = json.loads(pocketvit("inspect", file, "--no-time", "--json").out)
    assert document["widths"] is None
    assert "no manifest" in document["widths_reason"]
    assert "Widths: not known, the file has no manifest" in pocketvit("inspect", file, "--no-time").out


def test_inspecting_what_cannot_be(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    file = copied(tiny_run, tmp_path)
    file.write_bytes(file.read_bytes()[:2000])
    (tmp_path / "page.onnx").write_text("<html>")
    for arguments, text in [
        ((file,), "tiny.fp32.tflite"),
        ((tmp_path / "page.onnx",), "page.onnx"),
        ((tmp_path / "none.tflite",), "does not exist"),
        ((manifest_path(file),), "not a model file"),
        ((file, "--threads", "0"), "at least 1"),
    ]:
        answer = pocketvit("inspect", *arguments)
        assert answer.code == 2
        assert answer.out == ""
        said = " ".join(answer.err.split())
        assert text in said
        assert said.startswith("error: ")
        assert "Traceback" not in answer.err


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_verified(tiny_run: Path, pocketvit: Command, suffix: str) -> None:
    answer = pocketvit("verify", tiny_run / "artifacts" / f"tiny.{suffix}", "--images", 2, "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["schema"] == "pocketvit.verification"
    assert document["passed"] is True
    assert all(check["passed"] for check in document["checks"])
    assert document["parity"]["images"] == 60
    assert document["comparison"] is None


def test_a_changed_file_fails_with_one(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    file = copied(tiny_run, tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    answer = pocketvit("verify", file, "--images", 1)
    assert answer.code == 1
    assert "FAILED" in answer.out
    assert "Recorded when it was exported" in answer.out
    assert "does not pass: sha256" in " ".join(answer.err.split())
    file.write_bytes(whole[:3000])
    answer = pocketvit("verify", file, "--json")
    assert answer.code == 1
    document = json.loads(answer.out)
    failed = {check["name"] for check in document["checks"] if not check["passed"]}
    assert document["passed"] is False
    assert failed == {"size", "sha256", "widths", "loads and runs"}


def test_verifying_what_cannot_be(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    file = copied(tiny_run, tmp_path)
    cases: list[tuple[tuple[object, ...], str]] = [
        ((file, "--images", 0), "1 to 10000"),
        ((file, "--with", "caffe"), "Expected tensorflow or gpu"),
        ((tiny_run / "artifacts" / "tiny.onnx", "--with", "tensorflow"), "a .tflite file"),
        ((tmp_path / "none.onnx",), "does not exist"),
    ]
    if find_spec("tensorflow") is None:
        cases.append(((file, "--with", "tensorflow"), "pip install 'pocketvit[tensorflow]'"))
    for arguments, text in cases:
        answer = pocketvit("verify", *arguments)
        assert answer.code == 2
        assert text in " ".join(answer.err.split())
        assert "Traceback" not in answer.err
    manifest_path(file).unlink()
    answer = pocketvit("verify", file)
    assert answer.code == 2
    assert "has no manifest" in " ".join(answer.err.split())


def test_errors_of_operators(tiny_run: Path, pocketvit: Command) -> None:
    files = tiny_run / "artifacts"
    answer = pocketvit("inspect", files / "tiny.int8.tflite", "--against", files / "tiny.fp32.tflite", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["schema"] == "pocketvit.operator-errors"
    assert document["only_here"] == []
    assert document["operators"][-1]["name"].startswith("logits")
    assert document["real"] is (tiny_run / "bench" / "test-images.npz").is_file()
    for sort, title in (("worst", "least SQNR"), ("lost", "lose most"), ("graph", "in the order of the file")):
        answer = pocketvit(
            "inspect", files / "tiny.int8.tflite", "--against", files / "tiny.fp32.tflite", "--sort", sort
        )
        assert answer.code == 0, answer.err
        shown = " ".join(answer.out.split())
        for text in (title, "blocks.*.mlp.fc1", "median lost", "matched by name", "Outputs: SQNR"):
            assert text in shown


def test_errors_of_operators_that_cannot_be_shown(tiny_run: Path, pocketvit: Command) -> None:
    files = tiny_run / "artifacts"
    for arguments, text in [
        (("tiny.fp32.tflite", "--against", files / "tiny.int8.tflite"), "is not a float file"),
        (("tiny.onnx", "--against", files / "tiny.fp32.tflite"), "a .tflite file"),
        (("tiny.int8.tflite", "--sort", "lost"), "--sort needs --against"),
        (("tiny.int8.tflite", "--images", "x.npz"), "--images needs --against"),
        (("tiny.int8.tflite", "--against", files / "none.tflite"), "does not exist"),
    ]:
        answer = pocketvit("inspect", files / arguments[0], *arguments[1:])
        assert answer.code == 2
        assert answer.out == ""
        assert text in " ".join(answer.err.split())
        assert "Traceback" not in answer.err


def test_files_of_different_models_are_said_to_be_hardly_alike(tmp_path: Path, pocketvit: Command) -> None:
    import torch

    from compress.model.vit import SlicedViT
    from export.formats.tflite import write_tflite
    from tests.export.small import LEAST, small_model

    write_tflite(small_model(LEAST), tmp_path / "one.tflite")
    torch.manual_seed(7)
    write_tflite(SlicedViT(LEAST).eval(), tmp_path / "other.tflite")
    answer = pocketvit("inspect", tmp_path / "one.tflite", "--against", tmp_path / "other.tflite")
    assert answer.code == 0, answer.err
    assert "HARDLY ALIKE" in answer.out
    assert "NOT REAL PICTURES" in answer.out
    answer = pocketvit("inspect", tmp_path / "one.tflite", "--against", tmp_path / "one.tflite")
    assert "HARDLY ALIKE" not in answer.out
    assert "identical" in answer.out


def test_a_file_is_linted(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    full, single = (tiny_run / "artifacts" / f"tiny.{own}.tflite" for own in ("int8-full", "fp32"))
    answer = pocketvit("inspect", full, "--for", "static-int8", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert (document["schema"], document["clean"], document["findings"]) == ("pocketvit.lint", True, [])
    answer = pocketvit("inspect", single, "--for", "static-int8")
    assert answer.code == 1
    assert "float island" in answer.out
    assert "findings for static int8" in answer.err
    answer = pocketvit("inspect", single, "--for", "gpu", "--json")
    assert answer.code == 0, answer.err
    half = json.loads(answer.out)["half"]
    assert half["source"].startswith("the test images of its run")
    assert half["ops"][0]["largest"] > 0
    assert "ends at 65,504" in pocketvit("inspect", single, "--for", "gpu").out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--for", "tpu"], "Expected one of cpu, gpu, static-int8"),
        (["--for", "gpu", "--against", "other.tflite"], "compares it with none"),
        (["--for", "gpu", "--sort", "lost"], "compares it with none"),
        (["--images", "some.npz"], "needs --against or --for"),
    ],
)
def test_linting_what_cannot_be(tiny_run: Path, pocketvit: Command, words: list[str], text: str) -> None:
    answer = pocketvit("inspect", tiny_run / "artifacts" / "tiny.fp32.tflite", *words)
    assert (answer.code, answer.out) == (2, "")
    assert text in " ".join(answer.err.split())
