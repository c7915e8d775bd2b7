"""A study over a real Ray cluster gives the same numbers, also where a worker is killed in the middle of a cell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketvit.study.conduct import Orders, conduct
from pocketvit.study.definition import read_study
from pocketvit.study.work import over_ray
from pocketvit.study.work.archive import digest_of, pack
from pocketvit.study.work.process import Work
from runtime import MissingExtraError
from tests.pocketvit.conftest import Command

from .study_fixtures import CELLS, Within, alive, children_of, command, lasting, study_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster of two workers with a core each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    program = Path(__file__).with_name("ray_cluster.py")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, str(program)], text=True, **pipes)  # type: ignore[call-overload]
    try:
        lines = iter(process.stdout.readline, "")
        yield next(line.split()[1] for line in lines if line.startswith("address "))
    finally:
        process.communicate("", timeout=60)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_two_workers_one_of_them_killed_in_a_cell_give_the_numbers_of_one_machine(cluster: str, tmp_path: Path) -> None:
    path = study_file(tmp_path)
    text = path.read_text().replace('targets = ["cpu"]', "targets = []").replace("seeds = [0, 1]", "seeds = [1]")
    path.write_text(text)
    process = command("study", path, "--runs", tmp_path / "there", "--ray", cluster)
    killed: list[int] = []
    seen: set[int] = set()
    while process.poll() is None:
        at_work = [pid for pid in children_of(CELLS[1]) if children_of("pocketvit-study-")]
        seen.update(at_work)
        if at_work and not killed:
            killed = [parent_of(at_work[0]), at_work[0]]
            os.kill(killed[0], signal.SIGKILL)
        time.sleep(0.05)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert killed
    assert not any(map(alive, killed))
    assert len(seen) > 1, "the cell was not begun again"
    conduct(read_study(path), tmp_path / "here", Orders(), starter=Within())
    here, there = lasting(tmp_path / "here"), lasting(tmp_path / "there" / "tiny")
    assert {name.split("/")[0] for name in here} == {CELLS[1], CELLS[3]}
    assert there == here


def test_without_ray_the_extra_is_named(pocketvit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="distributed"):
        over_ray.RayPool(tmp_path, "local", 1)
    answer = pocketvit("study", study_file(tmp_path), "--runs", tmp_path, "--ray", "local")
    assert answer.code == 2
    assert "pocketvit[distributed]" in answer.err


def test_ray_is_loaded_only_where_it_is_asked_for() -> None:
    program = (
        "import sys, pocketvit.cli, pocketvit.study.work.over_ray; print('ray' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_worker_of_another_version_refuses(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("x")
    data = pack(tmp_path / "a")
    outcome, _, _ = over_ray.do_there(Work("a", (), 1), data, digest_of(data), str(tmp_path), "0.0.0")
    assert "another version" in str(outcome.error)
