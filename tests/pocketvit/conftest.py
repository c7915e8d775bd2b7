"""A tiny run, made once by the command line, for the tests of the front door."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from device_bench.targets.cpu import bench_files
from device_bench.worker.isolated import CHILD, run_isolated
from pocketvit import cli
from runtime import Progress, silent
from runtime.worker.parent import JobResult
from tests.pocketvit import preloaded

TINY = [
    *("--model", "vit_tiny_patch16_224", "--img-size", "32", "--patch-size", "16"),
    *("--model-arg", "embed_dim=32", "--model-arg", "depth=2", "--model-arg", "num_heads=2"),
    *("--epochs", "3", "--recovery-epochs", "2", "--train-limit", "300", "--importance-images", "4"),
    *("--calibration-images", "4", "--verify-images", "60", "--min-agreement", "0", "--threads", "1"),
    # a recipe chosen by time could be another one the next time
    *("--for", "pi5"),
]


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]

PEAKS_OF_THREE_RUNS = (
    "from device_bench.metrics.peaks import measure_peaks\n"
    "measure_peaks.__kwdefaults__['seconds'] = 0.0\n"
    "from device_bench.worker.child import main\n"
    "raise SystemExit(main())\n"
)


@pytest.fixture(scope="module", autouse=True)
def _measuring_shortly() -> Iterator[None]:
    """Has each file started once, and the machine's peaks taken of three runs: no test here looks at a time."""

    def run(job: str, request: dict[str, Any], progress: Progress = silent, **more: Any) -> JobResult:
        command = (sys.executable, "-P", "-c", PEAKS_OF_THREE_RUNS) if job == "peaks" else CHILD
        return run_isolated(job, request, progress, **more, command=command)

    assert bench_files.__kwdefaults__ is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("device_bench.targets.cpu.REPEATS", 1)
        patch.setitem(bench_files.__kwdefaults__, "run_job", run)
        yield


@pytest.fixture
def pocketvit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["pocketvit", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        code = ended.value.code
        return Answer(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    return run


def command(*arguments: object) -> list[str]:
    """Returns the command line as a process of its own runs it."""
    return [sys.executable, "-m", "pocketvit", *map(str, arguments)]


def environment() -> dict[str, str]:
    """Returns an environment in which the checkout is importable from anywhere."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder of a tiny model."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = ("run", *TINY, "--name", "tiny", "--runs", runs, "--bench-seconds", "0.2", "--no-energy")
    done = preloaded.run(*arguments, env=environment())
    assert done.returncode == 0, done.stderr
    return runs / "tiny"
