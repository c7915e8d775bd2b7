"""The command line under torchrun: one run, two processes, killed and finished."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import METRICS_DOCUMENT, EpochRecord
from tests.pocketvit import preloaded
from tests.pocketvit.conftest import Command, environment

pytestmark = pytest.mark.slow

SMALL = [
    *("--model", "vit_tiny_patch16_224", "--img-size", "32", "--patch-size", "16"),
    *("--model-arg", "embed_dim=32", "--model-arg", "depth=2", "--model-arg", "num_heads=2"),
    *("--epochs", "16", "--patience", "16", "--recovery-epochs", "2", "--train-limit", "100", "--batch-size", "15"),
    *("--importance-images", "2", "--threads", "1", "--name", "small"),
]


def torchrun(*arguments: object) -> preloaded.Process:
    words = ("--standalone", "--nproc-per-node", "2", "-m", "pocketvit", *arguments)
    return preloaded.start(*words, env={**environment(), "OMP_NUM_THREADS": "1"}, program=preloaded.TORCHRUN)


def ranks_of(launcher: int) -> dict[int, int]:
    """Returns the process of each rank that a launcher started."""
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        told = dict(item.split(b"=", 1) for item in Path(f"/proc/{child}/environ").read_bytes().split(b"\0") if item)
        if b"RANK" in told:
            found[int(told[b"RANK"])] = int(child)
    return found


def wait_for(what: Callable[[], bool], process: preloaded.Process) -> None:
    end = time.monotonic() + 120
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def epochs_of(run: Path, stage: str) -> tuple[EpochRecord, ...]:
    return METRICS_DOCUMENT.read(run / stage / "metrics.json").epochs


def test_a_killed_run_of_two_processes_is_finished_and_printed_once(pocketvit: Command, tmp_path: Path) -> None:
    process = torchrun("compress", *SMALL, "--runs", tmp_path / "two")
    run = tmp_path / "two" / "small"
    try:
        wait_for((run / "baseline" / "training.safetensors").exists, process)
        ranks = ranks_of(process.pid)
        assert sorted(ranks) == [0, 1]
        os.kill(ranks[1], signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode != 0
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks.values())
    assert not (run / "baseline" / "metrics.json").exists(), "it was over before it was killed"

    process = torchrun("compress", *SMALL, "--runs", tmp_path / "two", "--resume", "--json")
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len(json.loads(out)["rows"]) == 2
    assert pocketvit("compress", *SMALL, "--runs", tmp_path / "one").code == 0
    for stage in ("baseline", "sliced"):
        one, two = epochs_of(tmp_path / "one" / "small", stage), epochs_of(run, stage)
        assert [e.train_loss for e in two] == pytest.approx([e.train_loss for e in one], rel=1e-4)


def test_a_mistake_under_torchrun_is_told_once_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    process = torchrun("compress", "--device", "cuda:7", "--runs", tmp_path)
    out, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert out == ""
    assert said.count("error: Each of the 2 processes takes another GPU") == 1
    assert "exitcode  : 2" in said
