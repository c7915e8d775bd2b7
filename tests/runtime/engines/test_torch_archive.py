"""The ``.pt2`` format without torch; what torch runs is tested with the export room."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import pytest

from runtime import ArtifactError, MissingExtraError, open_engine
from runtime.engines.torch_archive import pack_torch_archive, read_torch_archive


def test_a_missing_torch_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt2").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"'torch'.* Run: pip install 'pocketvit\[compress\]'"):
        open_engine(tmp_path / "a.pt2")


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"PK\x03\x04" + b"\xff" * 400, b"<html>" * 50, b"\x80\x04N."])
def test_garbage_is_refused_without_torch(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pt2").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"a\.pt2 is damaged or not a \.pt2 archive"):
        read_torch_archive(tmp_path / "a.pt2")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is damaged or not"):
        read_torch_archive(tmp_path / "none.pt2")


def test_another_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(pack_torch_archive({"archive_format": b"pt2", "data.pkl": b"\x80\x04N."}))
    with pytest.raises(ArtifactError, match="not a model that this project wrote"):
        read_torch_archive(tmp_path / "a.pt2")


def test_a_compressed_or_double_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/archive_format", b"pt2" * 10**6)
    with pytest.raises(ArtifactError, match="its size"):
        read_torch_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/archive_format", b"pt2")
        archive.writestr("other/archive_format", b"pt2")
    with pytest.raises(ArtifactError, match="a record of another kind"):
        read_torch_archive(path)


def test_equal_records_give_equal_bytes_in_any_order() -> None:
    records = {"b": b"2", "a": b"1"}
    packed = pack_torch_archive(records)
    assert packed == pack_torch_archive(dict(reversed(records.items())))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"model/a": b"1", "model/b": b"2"}
