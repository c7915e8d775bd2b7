"""A real adb, and an emulated arm64 board in place of a phone; LiteRT's program is a script that prints its format."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from device_bench.documents.measurement import Sampling
from device_bench.documents.request import BenchRequest
from device_bench.targets.android import rounds
from device_bench.targets.android.adb import bench_over_adb, check_adb
from device_bench.targets.android.client import SystemRunner
from device_bench.targets.base import Device
from runtime import MeasurementError, PocketVitError
from tests.boards.adb import Phone

from .phone import recorded

pytest_plugins = ["tests.boards.fixtures"]
pytestmark = pytest.mark.boards

PROGRAM = """#!/system/bin/sh
case "$*" in
  *model-0*) cat <<'TEXT'
@TEXT@
TEXT
  ;;
  *) exec sleep 600;;
esac
"""
TMP = "/data/local/tmp"
GOLDEN = Path(__file__).parents[3] / "golden"


class ByThis(SystemRunner):
    """Takes the adb of a test."""

    adb: Path

    def which(self, name: str) -> str | None:
        return str(self.adb)


def runner_for(phone: Phone) -> ByThis:
    runner = ByThis()
    object.__setattr__(runner, "adb", phone.adb)
    return runner


def left_on(phone: Phone) -> tuple[str, str]:
    """Returns what lies where the bench works, and the processes that run from there."""
    lies = phone.run("shell", f"ls -A {TMP}").stdout.decode().strip()
    runs = phone.run("shell", f"for l in /proc/[0-9]*/cwd; do readlink $l; done 2>/dev/null | grep {TMP}/").stdout
    return lies, runs.decode().strip()


def hangs(phone: Phone) -> bool:
    return any(process.argv[-1] == "600" for process in phone.board.processes())


def wait_until_clear(phone: Phone) -> tuple[str, str]:
    until = time.monotonic() + 60
    while left_on(phone) != ("", "") and time.monotonic() < until:
        time.sleep(0.5)
    return left_on(phone)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "benchmark_model"
    path.write_text(PROGRAM.replace("@TEXT@", recorded("benchmark_gpu_part.txt")), encoding="utf-8")
    return path


def device_and_request(phone: Phone, program: Path, folder: Path, timeout_s: float) -> tuple[Device, BenchRequest]:
    files = [folder / name for name in ("$(touch pwned) `id` 'a'.tflite", "-hangs\n.tflite")]
    for file in files:
        file.write_bytes(b"x" * 5000)
    device = Device(f"adb:{phone.serial}", benchmark_model=program, backends=("gpu",))
    return device, BenchRequest(tuple(files), target=device.address, sampling=Sampling.exactly(3), timeout_s=timeout_s)


def test_a_bench_over_real_adb_leaves_nothing_behind(
    adb_phone: Phone, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_SLACK_S", 1.0)
    device, request = device_and_request(adb_phone, program, tmp_path, 6.0)
    (result,) = bench_over_adb(device, request, runner=runner_for(adb_phone))
    assert [own.file for own in result.files] == [request.files[0].name]
    assert result.files[0].notes[0].startswith("ONLY PARTLY ON THE GPU: it runs 180 of 231 operations")
    assert [failure.file for failure in result.failures] == [request.files[1].name]
    assert "gave no result within 6 s" in result.failures[0].what
    assert result.emulated
    assert result.files[0].measurements == ()
    assert result.before.board == "qemu Emulated arm64"
    assert left_on(adb_phone) == ("", "")
    findings = check_adb(device, runner=runner_for(adb_phone))
    assert all(finding.value is not None for finding in findings)


@pytest.mark.parametrize("how", ["stopped", "server", "cable"])
def test_a_link_that_is_cut_leaves_nothing_behind(adb_phone: Phone, program: Path, tmp_path: Path, how: str) -> None:
    device, request = device_and_request(adb_phone, program, tmp_path, 600.0)
    runner, ended = runner_for(adb_phone), list[Exception]()

    def bench() -> None:
        try:
            bench_over_adb(device, request, runner=runner)
        except PocketVitError as error:
            ended.append(error)

    worker = threading.Thread(target=bench)
    worker.start()
    until = time.monotonic() + 120
    while not hangs(adb_phone) and time.monotonic() < until:
        time.sleep(0.2)
    assert hangs(adb_phone)
    if how == "stopped":
        runner.stop.set()
    elif how == "server":
        adb_phone.kill_server()
    else:
        adb_phone.drop_connections()
    worker.join(120)
    assert not worker.is_alive()
    assert isinstance(ended[0], MeasurementError)
    if how != "stopped":
        adb_phone.run("connect", adb_phone.serial)
    assert wait_until_clear(adb_phone) == ("", "")


def test_a_full_disk_is_said(adb_phone: Phone, program: Path, tmp_path: Path) -> None:
    device, request = device_and_request(adb_phone, program, tmp_path, 20.0)
    with program.open("ab") as file:
        file.write(bytes(80 << 20))  # more than the phone has
    with pytest.raises(PocketVitError, match="cannot be sent"):
        bench_over_adb(device, request, runner=runner_for(adb_phone))
    assert left_on(adb_phone) == ("", "")


def test_a_phone_with_python_is_measured_as_a_board_is(adb_phone: Phone) -> None:
    files = tuple(GOLDEN / name for name in ("tiny-fp32.tflite", "tiny-int8.tflite"))
    device = Device(f"adb:{adb_phone.serial}")
    request = BenchRequest(files, target=device.address, sampling=Sampling.exactly(3), peaks=False)
    (result,) = bench_over_adb(device, request, runner=runner_for(adb_phone))
    assert result.failures == ()
    assert [own.file for own in result.files] == [file.name for file in files]
    assert result.emulated
    assert all(finding.value for finding in check_adb(device, runner=runner_for(adb_phone)))
    assert not hangs(adb_phone)
