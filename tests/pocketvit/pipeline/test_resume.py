"""A run killed in each of its stages, and continued each time, ends like one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pocketvit import preloaded
from tests.pocketvit.conftest import TINY, environment
from tests.pocketvit.killed import kill_at

pytestmark = pytest.mark.slow

SAME = ("run.json", "search/*", "baseline/*", "sliced/*", "artifacts/*")

PLACES = (
    *("run.json", "baseline/training.safetensors", "baseline/model.safetensors", "search/bases.safetensors"),
    *("search/journal.jsonl", "sliced/training.safetensors", "sliced/model.safetensors"),
    *("artifacts/*.tflite", "artifacts/*.onnx", "bench/*"),
)
"""What a run writes, in this order: each stage is killed in its middle or between its files."""


def lasting(root: Path) -> dict[str, bytes]:
    """Returns the files of a run that must not depend on when it was stopped; times are not among them."""
    files = {path for pattern in SAME for path in root.glob(pattern) if path.is_file()}
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


def test_ten_kills_change_nothing(tiny_run: Path, tmp_path: Path) -> None:
    asked = ("--name", "tiny", "--runs", tmp_path, "--bench-seconds", "0.2", "--no-energy", "--resume")
    arguments = ("run", *TINY, *asked)
    kill_at(PLACES, tmp_path / "tiny", *arguments)
    done = preloaded.run(*arguments, env=environment())
    assert done.returncode == 0, done.stderr
    assert lasting(tmp_path / "tiny") == lasting(tiny_run)
    leftovers = [p for p in (tmp_path / "tiny").rglob("*") if p.name.endswith(".tmp") or p.name.startswith(".export")]
    assert leftovers == []
    assert not list((tmp_path / "tiny").rglob("training.safetensors"))


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    arguments = ("compress", *TINY, "--epochs", "300", "--patience", "300", "--name", "tiny", "--runs", tmp_path)
    first = preloaded.start(*arguments, env=environment())
    try:
        assert "fine-tune" in first.stderr.readline()
        second = preloaded.run(*arguments, "--resume", env=environment(), timeout=120)
        assert second.returncode == 2
        assert "Another process is writing" in second.stderr
    finally:
        first.kill()
        first.communicate()
