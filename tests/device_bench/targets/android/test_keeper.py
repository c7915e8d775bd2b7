"""The keeper is run for real, by this machine's shells; for adb a script stands in that runs things here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_bench.documents.measurement import Sampling
from device_bench.documents.request import BenchRequest
from device_bench.targets.android import rounds
from device_bench.targets.android.adb import bench_over_adb
from device_bench.targets.android.client import Adb, SystemRunner
from device_bench.targets.android.keeper import end_all_in, keeper_program, kept_folder
from device_bench.targets.base import Device
from runtime import MeasurementError, UnsupportedTargetError

from .phone import recorded

SHELLS = [found for name in ("bash", "mksh") if (found := shutil.which(name))]
"""Android's is mksh; bash has all that the keeper needs, too."""

ADB = r"""#!/bin/bash
root=@ROOT@
here() { printf '%s' "${1//\/data\/local\/tmp/$root}"; }
case "$1" in
  devices) printf 'List of devices attached\nR3\tdevice\n'; exit 0;;
esac
shift 2
case "$1" in
  push) [ -e "$root/full" ] && { echo "adb: error: No space left on device" >&2; exit 1; }; cp -- "$2" "$(here "$3")";;
  shell) eval 'last=${'$#'}'; bash -c "$(here "$last")" > >(sed -u "s#$root#/data/local/tmp#g"); exit $?;;
esac
"""

PROGRAM = r"""#!/bin/bash
case "$*" in
  *model-0*) cat "@TEXT@";;
  *) echo $$ > @ROOT@/hung; exec sleep 600;;
esac
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "phone"
    folder.mkdir()
    return folder


@pytest.fixture
def adb(tmp_path: Path, root: Path) -> Path:
    script = tmp_path / "adb"
    script.write_text(ADB.replace("@ROOT@", str(root)), encoding="utf-8")
    script.chmod(0o755)
    return script


@pytest.fixture(params=SHELLS)
def keep(request: pytest.FixtureRequest, root: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(token: str = "abc123", silence_s: float = 60.0) -> subprocess.Popen[str]:
        program = keeper_program(token, base=str(root), silence_s=silence_s)
        process = subprocess.Popen(
            [request.param, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ready(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready ")
    return Path(line.removeprefix("ready ").strip())


def run_in(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], cwd=folder)


def ended(process: subprocess.Popen[bytes]) -> bool:
    return process.wait(30) == -signal.SIGKILL


def is_alive(number: int) -> bool:
    """Whether a process still runs; one that nobody asked for its status yet does not."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_there_is_a_shell_to_try_it_with() -> None:
    assert SHELLS


def test_the_end_of_its_input_ends_what_runs_and_removes_the_folder(
    keep: Callable[..., subprocess.Popen[str]], root: Path
) -> None:
    keeper = keep()
    folder = ready(keeper)
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "deep").mkdir()
    runs, other = [run_in(folder), run_in(folder / "deep")], run_in(root)
    try:
        out, _ = keeper.communicate(timeout=30)
        assert out == "gone\n"
        assert keeper.returncode == 0
        assert all(ended(process) for process in runs)
        assert other.poll() is None
        assert list(root.iterdir()) == []
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("how", ["silence", "SIGHUP", "SIGTERM"])
def test_silence_and_signals_end_it_too(keep: Callable[..., subprocess.Popen[str]], root: Path, how: str) -> None:
    keeper = keep(silence_s=0.5 if how == "silence" else 60.0)
    process = run_in(ready(keeper))
    if how != "silence":
        keeper.send_signal(getattr(signal, how))
    assert keeper.wait(30) == 0
    assert ended(process)
    assert list(root.iterdir()) == []


def test_a_hang_up_beside_the_end_of_its_input_and_many_after_it_change_nothing(
    keep: Callable[..., subprocess.Popen[str]], root: Path
) -> None:
    for token in ("f1r5t", "5ec0nd", "th1rd"):
        keeper = keep(token)
        ready(keeper)
        assert keeper.stdin is not None
        keeper.stdin.close()
        while keeper.poll() is None:
            keeper.send_signal(signal.SIGHUP)
            time.sleep(0.0002)
        assert keeper.stdout is not None
        assert keeper.stdout.read() == "gone\n"
        assert keeper.returncode == 0
        assert list(root.iterdir()) == []
        keeper.stdin = None


def test_lines_keep_it_alive(keep: Callable[..., subprocess.Popen[str]]) -> None:
    keeper = keep(silence_s=1.5)
    folder = ready(keeper)
    assert keeper.stdin is not None
    for _ in range(10):
        keeper.stdin.write("\n")
        keeper.stdin.flush()
        time.sleep(0.2)
    assert keeper.poll() is None
    assert folder.is_dir()


def test_what_a_dead_keeper_left_is_removed_and_what_a_live_one_keeps_is_not(
    keep: Callable[..., subprocess.Popen[str]], root: Path
) -> None:
    dead, alive = keep("dead00"), keep("a11ve0")
    left, kept = ready(dead), ready(alive)
    process = run_in(left)
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert left.is_dir()
    fresh = ready(keep("fre5f0"))
    assert ended(process)
    assert set(root.iterdir()) == {kept, fresh}


def test_what_hangs_is_ended_and_the_folder_stays(keep: Callable[..., subprocess.Popen[str]]) -> None:
    folder = ready(keep())
    process = run_in(folder)
    subprocess.run(["bash", "-c", end_all_in(str(folder))], check=True)
    assert ended(process)
    assert folder.is_dir()


def test_a_folder_is_kept_for_a_block_and_goes_with_it(adb: Path, root: Path) -> None:
    phone = Adb(str(adb), "R3", "phone", SystemRunner())
    with kept_folder(phone, beat_s=0.1, silence_s=2.0) as kept:
        time.sleep(0.5)
        assert not kept.lost
        assert [str(folder) for folder in root.iterdir()] == [kept.path.replace("/data/local/tmp", str(root))]
    assert not kept.left_behind
    assert list(root.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), kept_folder(phone):
        raise KeyboardInterrupt
    assert list(root.iterdir()) == []


def test_a_keeper_that_dies_is_noticed(adb: Path, root: Path) -> None:
    phone = Adb(str(adb), "R3", "phone", SystemRunner())
    with kept_folder(phone, beat_s=0.1) as kept:
        os.kill(int(kept.path.rpartition("-")[2]), signal.SIGKILL)
        until = time.monotonic() + 30
        while not kept.lost and time.monotonic() < until:
            time.sleep(0.05)
        assert kept.lost
    assert kept.left_behind


def test_a_place_that_cannot_be_written_is_said(adb: Path, tmp_path: Path) -> None:
    phone = Adb(str(adb), "R3", "phone", SystemRunner())
    with (
        pytest.raises(MeasurementError, match=r"phone cannot make a folder.*shell df"),
        kept_folder(phone, base=str(tmp_path / "none")),
    ):
        pass


class Here(SystemRunner):
    """Takes a script for adb."""

    adb: Path

    def which(self, name: str) -> str | None:
        return str(self.adb)


@pytest.mark.slow
def test_a_bench_over_a_script_for_adb_leaves_nothing_behind(
    adb: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_SLACK_S", 1.0)
    text = tmp_path / "text"
    text.write_text(recorded("benchmark_cpu.txt"), encoding="utf-8")
    program = tmp_path / "benchmark_model"
    program.write_text(PROGRAM.replace("@TEXT@", str(text)).replace("@ROOT@", str(root)), encoding="utf-8")
    files = [tmp_path / name for name in ("$(touch pwned) 'a'.tflite", "-hangs\n.tflite")]
    for file in files:
        file.write_bytes(b"x")
    runner = Here()
    object.__setattr__(runner, "adb", adb)
    device = Device("adb:", benchmark_model=program)
    request = BenchRequest(tuple(files), target="adb:", sampling=Sampling.exactly(6), timeout_s=1.0)
    (result,) = bench_over_adb(device, request, runner=runner)
    assert [own.file for own in result.files] == [files[0].name]
    assert [failure.file for failure in result.failures] == [files[1].name]
    assert "gave no result within 1 s" in result.failures[0].what
    assert not is_alive(int((root / "hung").read_text(encoding="utf-8")))
    assert [path.name for path in root.iterdir()] == ["hung"]
    (root / "full").touch()
    with pytest.raises(UnsupportedTargetError, match="No space left"):
        bench_over_adb(device, request, runner=runner)
    assert {path.name for path in root.iterdir()} == {"hung", "full"}
