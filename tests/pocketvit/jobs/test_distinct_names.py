from __future__ import annotations

import json
from pathlib import Path

import pytest

from pocketvit.jobs.distinct_names import distinct_names
from runtime import DataError, manifest_path
from tests.pocketvit.conftest import Command


def written(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(str(path).encode())
    manifest_path(path).write_text("{}")
    return path


def test_files_of_one_name_are_told_apart_by_their_runs(tmp_path: Path) -> None:
    files = [written(tmp_path / run / "artifacts" / "vit.onnx") for run in ("one", "two")]
    files.append(written(tmp_path / "two" / "artifacts" / "other.onnx"))
    with distinct_names(files) as named:
        assert [path.name for path in named] == ["one-vit.onnx", "two-vit.onnx", "other.onnx"]
        assert [path.resolve().name for path in named] == [path.name for path in named]
        assert [path.read_bytes() for path in named] == [path.read_bytes() for path in files]
        assert all(manifest_path(path).is_file() for path in named)
        folder = named[0].parent
    assert not folder.exists()
    assert all(path.is_file() for path in files)


def test_as_many_folders_as_it_takes(tmp_path: Path) -> None:
    files = [written(tmp_path / parent / "run" / "a.tflite") for parent in ("x", "y")]
    with distinct_names(files) as named:
        assert [path.name for path in named] == ["x-run-a.tflite", "y-run-a.tflite"]


def test_files_of_different_names_stay_where_they_are(tmp_path: Path) -> None:
    files = (written(tmp_path / "a.onnx"), written(tmp_path / "b.onnx"))
    with distinct_names(files) as named:
        assert named == files


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "a.onnx")
    (tmp_path / "link.onnx").symlink_to(file)
    with pytest.raises(DataError, match="is named twice"), distinct_names([file, tmp_path / "link.onnx"]):
        pass


def test_a_missing_file_is_named_as_it_was_given(tmp_path: Path) -> None:
    files = (written(tmp_path / "a" / "x.onnx"), tmp_path / "b" / "x.onnx")
    with distinct_names(files) as named:
        assert named[1] == files[1]


@pytest.mark.slow
def test_two_runs_are_benched_together(tiny_run: Path, tmp_path: Path, pocketvit: Command) -> None:
    other = tmp_path / "again" / "artifacts"
    other.mkdir(parents=True)
    for file in (tiny_run / "artifacts").glob("tiny.fp32.tflite*"):
        (other / file.name).write_bytes(file.read_bytes())
    files = (tiny_run / "artifacts" / "tiny.fp32.tflite", other / "tiny.fp32.tflite")
    answer = pocketvit("bench", *files, "--samples", 3, "--throughput", 0, "--json", "-")
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)["files"]
    assert [row["file"] for row in rows] == ["tiny-tiny.fp32.tflite", "again-tiny.fp32.tflite"]
    assert rows[0]["sha256"] == rows[1]["sha256"]
