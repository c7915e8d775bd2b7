"""A run killed at random moments, and continued each time, ends like one that was left alone."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.pocketvit.conftest import TINY, command, environment

pytestmark = pytest.mark.slow

KILLS = 10
SAME = ("run.json", "search/*", "baseline/*", "sliced/*", "artifacts/*")


def lasting(root: Path) -> dict[str, bytes]:
    """Returns the files of a run that must not depend on when it was stopped; times are not among them."""
    files = {path for pattern in SAME for path in root.glob(pattern) if path.is_file()}
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


def start(arguments: list[str]) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(arguments, env=environment(), text=True, **streams)  # type: ignore[call-overload]


def test_ten_kills_change_nothing(tiny_run: Path, tmp_path: Path) -> None:
    arguments = command(
        "run", *TINY, "--name", "tiny", "--runs", tmp_path, "--bench-seconds", "0.2", "--no-energy", "--resume"
    )
    generator = random.Random(20)
    kills = 0
    while kills < KILLS:
        process = subprocess.Popen(
            arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # the first seconds only import, so the clock starts at the first sign of work
        assert process.stderr is not None
        process.stderr.readline()
        time.sleep(generator.uniform(0.0, 1.5))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert kills >= 5, "the run was over before it could be killed often"
    assert lasting(tmp_path / "tiny") == lasting(tiny_run)
    leftovers = [p for p in (tmp_path / "tiny").rglob("*") if p.name.endswith(".tmp") or p.name.startswith(".export")]
    assert leftovers == []
    assert not list((tmp_path / "tiny").rglob("training.safetensors"))


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    arguments = command("compress", *TINY, "--epochs", "300", "--patience", "300", "--name", "tiny", "--runs", tmp_path)
    first = start(arguments)
    try:
        assert first.stderr is not None
        assert "fine-tune" in first.stderr.readline()
        second = subprocess.run(
            [*arguments, "--resume"], env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
        assert second.returncode == 2
        assert "Another process is writing" in second.stderr
    finally:
        first.kill()
        first.communicate()
