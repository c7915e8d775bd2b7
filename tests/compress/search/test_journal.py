from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.budget import COUNTS, Budget
from compress.importance.units import BlockImportance, Importance
from compress.model.slicing import keep_all
from compress.search.base import Proposal
from compress.search.journal import read_journal, write_journal
from compress.search.one_shot import propose
from runtime import ArtifactError, StorageError, encode, macs
from tests.compress.tiny import TINY_PLAN, sliced_model

SETTINGS: dict[str, Any] = {"budget": "macs=0.5", "seed": 3, "images": 200, "sizes": {"mlp": 8}, "note": None}


def proposal() -> Proposal:
    generator = np.random.default_rng(0)
    importance = Importance(
        generator.random(16),
        tuple(
            BlockImportance(
                generator.random((b.num_heads, b.qk_dim)),
                generator.random((b.num_heads, b.v_dim)),
                generator.random(b.mlp_dim),
            )
            for b in TINY_PLAN.blocks
        ),
    )
    return propose(TINY_PLAN, importance, Budget(COUNTS["macs"], macs(TINY_PLAN) // 2), keep_all(TINY_PLAN))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = tmp_path / "search" / "journal.jsonl"
    write_journal(journal, SETTINGS, proposal())
    return journal


def test_a_search_comes_back_as_it_was(path: Path) -> None:
    assert len(proposal().steps) > 2
    assert read_journal(path, TINY_PLAN, SETTINGS) == proposal()


def test_a_search_without_a_step_comes_back(tmp_path: Path) -> None:
    everything = keep_all(TINY_PLAN)
    write_journal(tmp_path / "j.jsonl", {}, Proposal(TINY_PLAN, everything, ()))
    assert read_journal(tmp_path / "j.jsonl", TINY_PLAN, {}) == Proposal(TINY_PLAN, everything, ())


def test_the_file_is_json_lines(path: Path) -> None:
    header, *steps, last = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert header == {"schema": "pocketvit.journal", "schema_version": 1, "settings": SETTINGS}
    assert [step["step"] for step in steps] == list(range(1, len(proposal().steps) + 1))
    assert {"action", "block", "importance", "cost"} < set(steps[0])
    assert last["plan"] == encode(proposal().plan)


@pytest.mark.parametrize("changes", [{"seed": 4}, {"budget": "macs=0.6"}, {"more": 1}, {"sizes": {"mlp": 16}}])
def test_the_journal_of_another_search_is_refused(path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="is the journal of another search"):
        read_journal(path, TINY_PLAN, SETTINGS | changes)


def test_the_journal_of_another_model_is_refused(path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"journal\.jsonl"):
        read_journal(path, sliced_model("vit").plan, SETTINGS)


def test_an_unfinished_journal_is_refused_at_every_line_and_byte(path: Path) -> None:
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    sizes = {len(b"".join(lines[:n])) for n in range(len(lines))} | set(range(0, len(content) - 1, 97))
    for size in sorted(sizes):
        path.write_bytes(content[:size])
        with pytest.raises(ArtifactError, match=r"journal\.jsonl"):
            read_journal(path, TINY_PLAN, SETTINGS)


def _line(index: int, **changes: Any) -> Callable[[list[Any]], None]:
    def change(lines: list[Any]) -> None:
        lines[index] = lines[index] | changes

    return change


def _replace(index: int, value: Any) -> Callable[[list[Any]], None]:
    def change(lines: list[Any]) -> None:
        lines[index] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _line(0, schema="pocketvit.plan"),
        _line(0, schema_version=2),
        _replace(0, []),
        _replace(0, {}),
        _replace(1, 5),
        _replace(-1, []),
        _line(-1, kept={"embed": [0], "blocks": []}),
        _line(-1, kept={"embed": [0.5] * 8, "blocks": []}),
        _line(-1, kept=encode(keep_all(TINY_PLAN)) | {"embed": list(range(12))}),
        _line(-1, kept=encode(keep_all(TINY_PLAN)) | {"embed": list(range(100, 108))}),
        _line(-1, kept=encode(keep_all(TINY_PLAN))),
        _line(-1, plan=None),
    ],
)
def test_a_damaged_journal_is_refused(path: Path, change: Callable[[list[Any]], None]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ArtifactError, match=r"journal\.jsonl"):
        read_journal(path, TINY_PLAN, SETTINGS)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"\n\n", b"null\nnull\nnull"])
def test_no_journal_at_all_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read as a finished search"):
        read_journal(path, TINY_PLAN, SETTINGS)
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot be read as a finished search"):
        read_journal(path, TINY_PLAN, SETTINGS)


def test_a_journal_that_cannot_be_written_says_so(path: Path) -> None:
    with pytest.raises(StorageError, match="Cannot write"):
        write_journal(path / "below" / "j.jsonl", SETTINGS, proposal())
