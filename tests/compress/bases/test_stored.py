"""An analysis comes back from its file bit by bit, and only for the work it was made for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from compress.bases.moments import moment_tensors
from compress.bases.stored import read_bases, write_bases
from compress.model.slicing import keep_all
from tests.compress.bases.analysed import analysis_of, without_last
from tests.compress.kinds import KINDS


@pytest.mark.parametrize("key", [*KINDS, "roomy"])
def test_it_comes_back_bit_by_bit(key: str, tmp_path: Path) -> None:
    found, path = analysis_of(key), tmp_path / "bases.safetensors"
    write_bases(path, "this work", found)
    again = read_bases(path, "this work")
    assert again is not None
    assert again.model.plan == found.model.plan
    pairs = [*zip(again.model.parameters(), found.model.parameters(), strict=True)]
    for one, other in zip(again.moments.blocks, found.moments.blocks, strict=True):
        pairs += zip(moment_tensors(one), moment_tensors(other), strict=True)
    assert again.moments.inputs.keys() == found.moments.inputs.keys()
    pairs += [(value, found.moments.inputs[name]) for name, value in again.moments.inputs.items()]
    pairs += [(again.moments.stream, found.moments.stream)]
    pairs += [(getattr(again.coordinates, part), getattr(found.coordinates, part)) for part in ("matrix", "shift")]
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    for one, other in zip(again.importance.parts(), found.importance.parts(), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def test_a_cut_after_reading_is_the_cut_before_writing(tmp_path: Path) -> None:
    found, path = analysis_of("roomy"), tmp_path / "bases.safetensors"
    write_bases(path, "", found)
    again = read_bases(path, "")
    assert again is not None
    kept = without_last(found.model.plan, 1, "mlp", 40)
    one, other = found.cut(kept), again.cut(kept)
    assert one.plan == other.plan != found.model.plan
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    turned = [own.turned(own.cut(kept), kept, 1) for own in (found, again)]
    assert all(torch.equal(a, b) for a, b in zip(*(own.parameters() for own, _ in turned), strict=True))
    assert torch.equal(turned[0][1].matrix, turned[1][1].matrix)


def path_of(data: bytes, folder: Path) -> Path:
    path = folder / "whole.safetensors"
    path.write_bytes(data)
    return path


def test_other_work_missing_and_damaged_files_are_not_taken(tmp_path: Path) -> None:
    found, path = analysis_of("vit"), tmp_path / "bases.safetensors"
    assert read_bases(path, "this work") is None
    write_bases(path, "this work", found)
    assert read_bases(path, "other work") is None
    data = path.read_bytes()
    for damaged in (data[:100], data[: len(data) // 2], b"", b"\x00" * 64):
        path.write_bytes(damaged)
        assert read_bases(path, "this work") is None
    with safe_open(path_of(data, tmp_path), framework="pt") as file:
        tensors, head = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    for missing in ("moments/0.keys", "importance/embed", "coordinates/shift", "model/head.bias"):
        save_file({name: value for name, value in tensors.items() if name != missing}, path, head)
        assert read_bases(path, "this work") is None, missing
    path.write_bytes(data)
    again = read_bases(path, "this work")
    assert again is not None
    assert keep_all(again.model.plan) == keep_all(found.model.plan)
