import json
from dataclasses import replace

import pytest

from device_bench.documents.op_times import OpTimes, TimeRow, grouped, read_times, times_path, write_times
from runtime import ArtifactError, MeasurementError

PARTS = OpTimes(
    "a.tflite",
    "ab" * 32,
    "part",
    (
        TimeRow("embed", 1e-3),
        TimeRow("blocks.0.norm1", 1e-4),
        TimeRow("blocks.0.attn", 2e-3),
        TimeRow("blocks.0.mlp", 3e-3),
        TimeRow("blocks.1.attn", 2e-3),
        TimeRow("blocks.1.mlp", -1e-5),
        TimeRow("norm", 1e-4),
        TimeRow("head", 5e-5),
    ),
    8.3e-3,
    20,
    1,
    "cut short",
)


def test_what_was_written_is_read(tmp_path):
    path = write_times(tmp_path, PARTS)
    assert path == tmp_path / "times" / "a.tflite.json" == times_path(tmp_path, "a.tflite")
    assert read_times(path) == PARTS
    assert json.loads(path.read_text())["schema"] == "pocketvit.times"


def test_parts_are_summed_by_kind_and_noise_counts_as_nothing():
    assert grouped(PARTS) == pytest.approx(
        {"attention": 4e-3, "MLP": 3e-3, "embedding": 1e-3, "norms": 2e-4, "head": 5e-5}
    )
    assert list(grouped(PARTS)) == ["attention", "MLP", "embedding", "norms", "head"]
    assert PARTS.noise_s == pytest.approx(1e-5)


def test_parts_without_known_names_are_still_told():
    rows = (TimeRow("operators 0 to 4", 1.0), TimeRow("operators 5 to 9", 2.0), TimeRow("blocks.3", 4.0))
    assert grouped(replace(PARTS, rows=rows)) == {"blocks": 4.0, "operators between": 3.0}


def test_types_of_operator_keep_their_names():
    rows = (TimeRow("Softmax", 1e-3), TimeRow("MatMul", 2e-3))
    assert list(grouped(replace(PARTS, by="op type", rows=rows))) == ["MatMul", "Softmax"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"file": "a/b"}, "without its folder"),
        ({"sha256": "ab"}, "sha256"),
        ({"rows": ()}, "rows of different names"),
        ({"rows": (TimeRow("a", 1.0), TimeRow("a", 2.0))}, "rows of different names"),
        ({"rows": (TimeRow("a", float("nan")),)}, "impossible"),
        ({"whole_s": 0.0}, "must be positive"),
        ({"runs": 0}, "must be positive"),
        ({"threads": 0}, "must be positive"),
    ],
)
def test_what_cannot_be_is_refused(change, text):
    with pytest.raises(MeasurementError, match=text):
        replace(PARTS, **change)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("0.003", "0.004", "was changed after it was written"),
        ('"pocketvit.times"', '"pocketvit.bench"', "another kind"),
        ('"schema_version": 1', '"schema_version": 2', "newer PocketViT"),
        ("}", "", "not valid JSON"),
        ('"digest"', '"other"', "a digest"),
    ],
)
def test_a_damaged_document_is_refused(tmp_path, old, new, text):
    path = write_times(tmp_path, PARTS)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ArtifactError, match=text):
        read_times(path)


def test_a_document_under_another_files_name_is_refused(tmp_path):
    path = write_times(tmp_path, PARTS)
    path.rename(path.with_name("b.tflite.json"))
    with pytest.raises(ArtifactError, match="another file"):
        read_times(path.with_name("b.tflite.json"))
