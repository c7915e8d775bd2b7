from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runtime import ArtifactError, Document, JsonLines, StorageError


@dataclass(frozen=True)
class Note:
    name: str
    n: tuple[float | None, ...] = ()
    more: dict[str, float] = field(default_factory=dict)


PLAIN = Document("s", 2, Note)
SEALED = Document("s", 2, Note, sealed="Measure again")
NOTE = Note("é", (1.0, 2.5, None))


def test_a_document_comes_back_and_names_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "d.json"
    PLAIN.write(path, NOTE)
    content = {"name": "é", "n": [1, 2.5, None], "more": {}}
    assert json.loads(path.read_text("utf-8")) == {"schema": "s", "schema_version": 2, **content}
    assert PLAIN.read(path) == Document("s", 3, Note).read(path) == NOTE


def test_the_content_may_stand_under_a_key(tmp_path: Path) -> None:
    keyed = Document("s", 1, Note, key="note")
    keyed.write(tmp_path / "d.json", NOTE)
    assert json.loads((tmp_path / "d.json").read_text("utf-8"))["note"]["name"] == "é"
    assert keyed.read(tmp_path / "d.json") == NOTE
    (tmp_path / "d.json").write_text('{"schema": "s", "schema_version": 1}')
    with pytest.raises(ArtifactError, match=r"d\.json: note has the wrong type"):
        keyed.read(tmp_path / "d.json")


def test_an_absent_file_is_none_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    assert PLAIN.read_if_there(path) is None
    with pytest.raises(ArtifactError, match=r"d\.json does not exist. Expected a s document"):
        PLAIN.read(path)
    path.write_text("{")
    with pytest.raises(ArtifactError, match=r"d\.json is not valid JSON"):
        PLAIN.read_if_there(path)


def test_an_older_version_is_upgraded_and_this_one_is_not(tmp_path: Path) -> None:
    def renamed(fields: dict[str, Any], version: int) -> dict[str, Any]:
        if "old" not in fields:
            raise ArtifactError(f"Version {version} has no name")
        return {"name": f"{fields['old']} {version}"}

    newer = Document("s", 3, Note, upgrade=renamed)
    path = tmp_path / "d.json"
    path.write_text('{"schema": "s", "schema_version": 2, "old": "a"}')
    assert newer.read(path) == Note("a 2")
    path.write_text('{"schema": "s", "schema_version": 3, "name": "b"}')
    assert newer.read(path) == Note("b")
    path.write_text('{"schema": "s", "schema_version": 1}')
    with pytest.raises(ArtifactError, match=r"d\.json cannot be read: Version 1 has no name"):
        newer.read(path)


def test_an_edited_document_is_refused_if_sealed(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    SEALED.write(path, NOTE)
    assert SEALED.read(path) == NOTE
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")), indent=4))
    assert SEALED.read(path) == NOTE
    path.write_text(path.read_text().replace("2.5", "2.4"))
    with pytest.raises(ArtifactError, match=r"d\.json was changed after it was written.*Measure again"):
        SEALED.read(path)
    PLAIN.write(path, NOTE)
    with pytest.raises(ArtifactError, match="Expected a digest"):
        SEALED.read(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_before_the_file_is_touched(tmp_path: Path, value: float) -> None:
    _refused(tmp_path, Note("a", (value,)))


def test_a_lone_surrogate_is_refused_before_the_file_is_touched(tmp_path: Path) -> None:
    _refused(tmp_path, Note("\udc80"))


def _refused(folder: Path, note: Note) -> None:
    path = folder / "d.json"
    path.write_text("old")
    with pytest.raises(ArtifactError, match=r"d\.json cannot be written as JSON"):
        PLAIN.write(path, note)
    assert path.read_text() == "old"


def test_a_file_that_cannot_be_read_is_an_artifact_error(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'{"schema": "s\xe9"}')
    for path in (tmp_path / "latin", tmp_path):
        with pytest.raises(ArtifactError, match="cannot be read"):
            PLAIN.read(path)


@pytest.mark.parametrize(("text", "found"), [("[]", "'list'"), ("{}", "None"), ('{"schema": "t"}', "'t'")])
def test_another_document_is_named(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ArtifactError, match=f"another kind of document. Expected s. Got {found}"):
        PLAIN.read(tmp_path / "d.json")


LINES = JsonLines("log", 2)
HEADER, RECORDS = {"settings": {"a": 1}}, [{"n": number} for number in range(3)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "log.jsonl"
    LINES.write(path, HEADER, RECORDS[:2])
    LINES.append(path, RECORDS[2])
    return path


def read(path: Path, kind: JsonLines = LINES) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    header, lines = kind.read(path)
    return header, [line for _, line in lines]


def test_lines_come_back(path: Path) -> None:
    assert read(path) == read(path, JsonLines("log", 3)) == (HEADER, RECORDS)
    assert json.loads(path.read_text().splitlines()[0]) == {"schema": "log", "schema_version": 2, **HEADER}
    assert [where for where, _ in LINES.read(path)[1]] == [f"{path}, line {number}" for number in (2, 3, 4)]


def test_a_kind_without_schema_has_no_header(tmp_path: Path) -> None:
    bare, path = JsonLines(), tmp_path / "log.jsonl"
    bare.append(path, *RECORDS[:2])
    bare.append(path, RECORDS[2])
    assert read(path, bare) == ({}, RECORDS)


def test_a_cut_off_line_is_left_out_and_removed_by_the_next(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(whole.index(b'{"n": 2') + 1, len(whole)):
        path.write_bytes(whole[:size])
        assert read(path) == (HEADER, RECORDS[:2])
        LINES.append(path, RECORDS[2])
        assert path.read_bytes() == whole
    path.write_bytes(b'{"never')
    JsonLines().append(path, RECORDS[0])
    assert read(path, JsonLines()) == ({}, RECORDS[:1])


def test_lines_before_a_damaged_one_can_be_had(path: Path) -> None:
    for wrong, text in ((b"{\n", "not valid JSON"), (b'{"n": NaN}\n', "not valid JSON"), (b"[]\n", "no object")):
        LINES.write(path, HEADER, RECORDS)
        path.write_bytes(path.read_bytes() + wrong + b"{}\n")
        _, lines = LINES.read(path)
        assert [next(lines)[1] for _ in RECORDS] == RECORDS
        with pytest.raises(ArtifactError, match=rf"line 5 .*{text}"):
            next(lines)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({"schema": "other", "schema_version": 1}, "another kind of document. Expected log. Got 'other'"),
        ({"schema": "log", "schema_version": 3}, "newer PocketViT"),
        ({"schema": "log"}, "no valid schema_version"),
        (None, "another kind of document"),
    ],
)
def test_another_header_is_refused(path: Path, header: dict[str, Any] | None, text: str) -> None:
    path.write_text(f"{json.dumps(header)}\n" if header else "")
    with pytest.raises(ArtifactError, match=text):
        LINES.read(path)


def test_lines_that_cannot_be_read_or_written_say_so(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ArtifactError, match="cannot be read"):
        LINES.read(path)
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        LINES.read(path)
    with pytest.raises(StorageError, match="Cannot write"):
        LINES.append(path.parent, RECORDS[0])
