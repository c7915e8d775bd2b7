import json
from dataclasses import replace
from pathlib import Path

import pytest

from device_bench import read_result, write_result
from runtime import ArtifactError, MeasurementError

from .conftest import bench_result

GOLDEN = Path(__file__).parent / "golden" / "bench_v1.json"


@pytest.fixture
def written(run):
    return run / "bench" / "cpu.json"


def test_a_result_comes_back_as_it_was(run, written):
    assert read_result(written) == bench_result(run)


def test_no_folder_is_stored(run, written):
    assert str(run) not in written.read_text()


def test_the_golden_file_of_version_1_loads():
    result = read_result(GOLDEN)
    assert json.loads(GOLDEN.read_text())["schema_version"] == 1
    assert (result.target, result.created_utc) == ("cpu", "2025-01-02T03:04:05+00:00")
    first, second = result.files
    assert first.latency.values == (0.0021, 0.002, 0.0022)
    assert first.latency.warmup_values == (0.01, 0.0021)
    assert first.memory.peak_rss_bytes == 61_000_000
    assert second.memory.reason == "The process was killed by SIGKILL"
    assert second.precision is None
    assert result.before.clocks_hz == (1.5e9, 2.4e9)
    assert result.sampling.max_samples == 1000


def test_every_truncation_is_refused(tmp_path):
    text = GOLDEN.read_text()
    path = tmp_path / "cut.json"
    for end in range(0, len(text.rstrip()), 37):
        path.write_text(text[:end])
        with pytest.raises(ArtifactError):
            read_result(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.0022", "0.0012"),
        ("0.0022", "NaN"),
        ("0.0022", "Infinity"),
        ("0.0022", "1e999"),
        ("0.0022", '"0.0022"'),
        ('"cpu"', '"gpu"'),
        ('"threads": 1', '"threads": 2'),
        ('"digest"', '"digset"'),
        ('"schema_version": 1', '"schema_version": 3'),
        ('"pocketvit.bench"', '"pocketvit.plan"'),
    ],
)
def test_what_was_edited_by_hand_is_refused(tmp_path, old, new):
    text = GOLDEN.read_text()
    assert old in text
    path = tmp_path / "edited.json"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ArtifactError):
        read_result(path)


def test_an_edit_is_called_an_edit(tmp_path):
    path = tmp_path / "edited.json"
    path.write_text(GOLDEN.read_text().replace("0.0022", "0.0012", 1))
    with pytest.raises(ArtifactError, match=r"changed after it was measured.*measure again"):
        read_result(path)


def test_layout_does_not_matter(tmp_path):
    path = tmp_path / "compact.json"
    path.write_text(json.dumps(json.loads(GOLDEN.read_text()), sort_keys=True))
    assert read_result(path) == read_result(GOLDEN)


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "folder/a.onnx"},
        {"file": "folder\\a.onnx"},
        {"file": ""},
        {"sha256": "abc"},
        {"threads": 0},
        {"size_bytes": 0},
        {"batch": 0},
    ],
)
def test_an_impossible_file_result_is_refused(changes):
    with pytest.raises(MeasurementError):
        replace(read_result(GOLDEN).files[0], **changes)


def test_an_impossible_result_is_refused():
    golden = read_result(GOLDEN)
    for changes in (
        {"created_utc": "yesterday"},
        {"created_utc": "2025-01-02T03:04:05"},
        {"files": ()},
        {"files": (golden.files[0],) * 2},
    ):
        with pytest.raises(MeasurementError):
            replace(golden, **changes)
    twice = golden.files[0].measurements * 2
    with pytest.raises(MeasurementError, match="twice"):
        replace(golden.files[0], measurements=twice)


def test_invalid_content_under_a_right_digest_is_still_refused(tmp_path):
    golden = read_result(GOLDEN)
    object.__setattr__(golden, "created_utc", "yesterday")
    path = tmp_path / "forged.json"
    write_result(path, golden)
    with pytest.raises(ArtifactError, match="created_utc"):
        read_result(path)
