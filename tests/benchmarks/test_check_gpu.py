"""The check on a GPU says of every part that it ran, or why not, and keeps what came before a cut."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import check_gpu, gpu_parts

CHILD = """
import json, os, pathlib, sys, time
name, out = sys.argv[1], pathlib.Path(sys.argv[2])
def write(state, reason, result):
    out.with_suffix(".new").write_text(json.dumps({"state": state, "reason": reason, "result": result}))
    out.with_suffix(".new").replace(out)
write("running", None, {"first": 1})
if name == "nccl":
    time.sleep(60)
if name == "torch":
    print("the driver crashed", flush=True)
    os.abort()
write("done", None, {"first": 1, "second": 2})
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    monkeypatch.setattr(check_gpu, "CHILD", (str(child),))
    return tmp_path / "results" / "check.json"


def states(document: dict[str, Any]) -> dict[str, str]:
    return {part["name"]: part["state"] for part in document["parts"]}


def test_a_crash_or_a_hang_costs_one_part_and_leaves_what_it_found(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(check_gpu.PARTS, "nccl", 2)
    document = check_gpu.run_parts(["torch", "nccl", "energy"], 60, stand_in)
    assert states(document) == {"torch": "failed", "nccl": "cut", "energy": "done"}
    crash, hang, good = document["parts"]
    assert "the driver crashed" in crash["reason"]
    assert crash["result"] == hang["result"] == {"first": 1}
    assert hang["reason"] == "it took longer than 2 s"
    assert good["result"] == {"first": 1, "second": 2}
    assert json.loads(stand_in.read_text()) == document
    assert "torch         failed" in capsys.readouterr().out


def test_parts_beyond_the_time_are_not_run(stand_in: Path) -> None:
    document = check_gpu.run_parts(["energy", "torch"], 1, stand_in)
    assert states(document) == {"energy": "not run", "torch": "not run"}
    assert {part["reason"] for part in document["parts"]} == {"no time was left"}


def test_the_results_of_a_cut_are_on_disk_before_a_part_ends(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    honest = check_gpu._keep

    def keep(out: Path, document: dict[str, Any], part: dict[str, Any], found: dict[str, Any]) -> None:
        honest(out, document, part, found)
        seen.append(json.loads(out.read_text())["parts"][-1])

    monkeypatch.setattr(check_gpu, "_keep", keep)
    monkeypatch.setitem(check_gpu.PARTS, "nccl", 2)
    check_gpu.run_parts(["nccl"], 60, stand_in)
    assert seen[-1]["state"] == "running"
    assert seen[-1]["result"] == {"first": 1}


def test_every_part_is_there_and_all_end_in_time() -> None:
    assert list(check_gpu.PARTS) == list(gpu_parts.PARTS)
    refused = subprocess.run(
        [sys.executable, check_gpu.__file__, "--parts", "cuda"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "Expected machine, litert-gpu" in refused.stderr


@pytest.mark.slow
def test_on_this_machine_each_part_runs_or_says_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    names = ["machine", "training", "onnxruntime"]
    done = subprocess.run(
        [sys.executable, check_gpu.__file__, "--out", str(out), "--parts", ",".join(names)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = {part["name"]: part for part in json.loads(out.read_text())["parts"]}
    assert list(parts) == names
    assert parts["machine"]["state"] == "done"
    assert parts["machine"]["result"]["packages"]["numpy"]
    if not torch.cuda.is_available():
        assert parts["training"]["state"] == "not run"
        assert "sees no CUDA GPU" in parts["training"]["reason"]
        assert parts["onnxruntime"]["state"] == "not run"


def test_a_missing_package_is_not_run_and_a_fault_of_ours_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found_by(part: Any) -> tuple[str, str]:
        monkeypatch.setitem(gpu_parts.PARTS, "machine", part)
        gpu_parts.main("machine", tmp_path / "out.json", 5)
        answer = json.loads((tmp_path / "out.json").read_text())
        return answer["state"], answer["reason"]

    def lacks(name: str) -> Any:
        def part(keep: Any, limit_s: float) -> dict[str, Any]:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

        return part

    def broken(keep: Any, limit_s: float) -> dict[str, Any]:
        keep({"some": 1})
        raise ValueError("wrong answer")

    assert found_by(lacks("tensorrt.bindings")) == ("not run", "No module named 'tensorrt.bindings'")
    assert found_by(lacks("export.gone"))[0] == "failed"
    assert found_by(broken) == ("failed", "ValueError: wrong answer")
    assert json.loads((tmp_path / "out.json").read_text())["result"] == {"some": 1}
