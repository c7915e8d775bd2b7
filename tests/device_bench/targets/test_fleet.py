from __future__ import annotations

import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from device_bench.documents.figures import Failure
from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BENCH_DOCUMENT, BenchResult
from device_bench.targets.base import Device
from device_bench.targets.fleet import Fleet, bench_fleet
from device_bench.targets.fleet_folder import read_failures, write_fleet
from runtime import ArtifactError, MeasurementError, Progress, StorageError
from tests.device_bench.conftest import bench_result
from tests.device_bench.fleets import emulated, failure, request

LONG_S = 20.0
"""Nothing takes so long unless it hangs."""


@pytest.fixture
def bench(run: Path) -> BenchResult:
    return bench_result(run)


def devices(*addresses: str) -> list[Device]:
    return [Device(address) for address in addresses]


def test_workers_work_side_by_side_and_results_come_in_the_order_asked(bench: BenchResult, tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=LONG_S)
    turns = {"ssh:a": 2, "ssh:b": 1, "ssh:c": 0}
    ended = [threading.Event() for _ in range(4)]
    ended[0].set()

    def bench_one(device: Device, own: BenchRequest, told: Progress, *, stop: threading.Event) -> BenchResult:
        together.wait()  # breaks unless all three are at work
        assert ended[turns[device.address]].wait(LONG_S)
        ended[turns[device.address] + 1].set()
        return replace(bench, target=device.address)

    fleet = bench_fleet(devices(*turns), request(tmp_path), bench_one=bench_one)
    assert [result.target for result in fleet.results] == ["ssh:a", "ssh:b", "ssh:c"]
    assert fleet.failures == ()
    assert fleet.complete


def test_this_machine_works_alone_and_first(bench: BenchResult, tmp_path: Path) -> None:
    at_work: list[str] = []
    begun: list[tuple[str, tuple[str, ...]]] = []
    lock = threading.Lock()
    remote = threading.Barrier(2, timeout=LONG_S)

    def bench_one(device: Device, own: BenchRequest, told: Progress, *, stop: threading.Event) -> BenchResult:
        with lock:
            at_work.append(device.address)
            begun.append((device.address, tuple(at_work)))
        if ":" in device.address:
            remote.wait()
        with lock:
            at_work.remove(device.address)
        return replace(bench, target=device.address)

    fleet = bench_fleet(devices("ssh:a", "cpu", "ssh:b", "cuda"), request(tmp_path), bench_one=bench_one)
    assert begun[:2] == [("cpu", ("cpu",)), ("cuda", ("cuda",))]
    assert {address for address, _ in begun[2:]} == {"ssh:a", "ssh:b"}
    assert [result.target for result in fleet.results] == ["ssh:a", "cpu", "ssh:b", "cuda"]


def test_targets_at_one_address_work_one_after_another(bench: BenchResult, tmp_path: Path) -> None:
    busy = threading.Lock()

    def bench_one(device: Device, own: BenchRequest, told: Progress, *, stop: threading.Event) -> BenchResult:
        assert busy.acquire(blocking=False)
        threading.Event().wait(0.05)
        busy.release()
        return replace(bench, target=device.address)

    same = [Device("ssh:a", f"threads-{count}", threads=count) for count in (1, 2, 4)]
    fleet = bench_fleet(same, request(tmp_path), bench_one=bench_one)
    assert [result.target for result in fleet.results] == ["threads-1", "threads-2", "threads-4"]


def test_emulated_boards_of_one_kind_work_side_by_side(bench: BenchResult, tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=LONG_S)

    def bench_one(device: Device, own: BenchRequest, told: Progress, *, stop: threading.Event) -> BenchResult:
        together.wait()
        return emulated(bench, device.address)

    boards = [Device("emu:pi4", name) for name in ("one", "two", "three")]
    fleet = bench_fleet(boards, request(tmp_path), bench_one=bench_one)
    assert [result.target for result in fleet.results] == ["one", "two", "three"]


def test_a_device_that_fails_costs_its_own_entry(bench: BenchResult, tmp_path: Path) -> None:
    def bench_one(device: Device, own: BenchRequest, told: Progress, *, stop: threading.Event) -> BenchResult:
        if device.place == "off":
            raise MeasurementError("It is switched off", fix="Switch it on")
        if device.place == "odd":
            raise ZeroDivisionError("by zero")
        if device.place == "rude":
            raise SystemExit(3)
        return replace(bench, target=device.address)

    told: list[tuple[str, str]] = []
    fleet = bench_fleet(
        devices("ssh:off", "ssh:on", "ssh:odd", "ssh:rude"),
        request(tmp_path),
        lambda stage, done, total, note="": told.append((stage, note)),
        bench_one=bench_one,
    )
    assert [result.target for result in fleet.results] == ["ssh:on"]
    assert [own.target for own in fleet.failures] == ["ssh:off", "ssh:odd", "ssh:rude"]
    assert fleet.failures[0].what == "It is switched off. Switch it on."
    assert "ended in an error. Got ZeroDivisionError: by zero" in fleet.failures[1].what
    assert "Got SystemExit: 3" in fleet.failures[2].what
    assert not fleet.complete
    assert not fleet.empty
    assert set(told) >= {("ssh:on: done", ""), ("ssh:off: failed", "It is switched off. Switch it on.")}


def test_a_fleet_of_failures_is_empty(tmp_path: Path, bench: BenchResult) -> None:
    assert Fleet((), (failure("ssh:a"),)).empty
    assert not Fleet((bench,), (failure("ssh:a"),)).empty


def test_one_speaks_at_a_time_and_says_who(bench: BenchResult, tmp_path: Path) -> None:
    speaking = threading.Lock()
    told: list[str] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        assert speaking.acquire(blocking=False)
        told.append(stage)
        threading.Event().wait(0.001)
        speaking.release()

    def bench_one(device: Device, own: BenchRequest, report: Progress, *, stop: threading.Event) -> BenchResult:
        for done in range(20):
            report("measure", done, 20)
        return replace(bench, target=device.address)

    named = [Device("ssh:a", "kitchen"), Device("ssh:b")]
    assert bench_fleet(named, request(tmp_path), progress, bench_one=bench_one).complete
    assert {stage: told.count(stage) for stage in set(told)} == {
        **{"kitchen: measure": 20, "ssh:b: measure": 20},
        **{"kitchen: done": 1, "ssh:b: done": 1},
    }


def test_one_device_alone_speaks_as_ever(bench: BenchResult, tmp_path: Path) -> None:
    told: list[str] = []

    def bench_one(device: Device, own: BenchRequest, report: Progress, *, stop: threading.Event) -> BenchResult:
        report("measure", 1, 1)
        return replace(bench, target=device.address)

    bench_fleet(devices("ssh:a"), request(tmp_path), lambda stage, *_: told.append(stage), bench_one=bench_one)
    assert told == ["measure"]


def test_several_results_of_one_device_all_count_and_bear_its_name(bench: BenchResult, tmp_path: Path) -> None:
    def bench_one(
        device: Device, own: BenchRequest, told: Progress, *, stop: threading.Event
    ) -> tuple[BenchResult, ...]:
        return replace(bench, target=device.address), replace(bench, target="phone gpu")

    fleet = bench_fleet([Device("adb:", "phone")], request(tmp_path), bench_one=bench_one)
    assert [result.target for result in fleet.results] == ["phone", "phone gpu"]


def test_ctrl_c_tells_every_worker_and_waits_for_them(tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=LONG_S)
    cleaned: list[str] = []
    main = threading.main_thread().ident
    assert main is not None

    def bench_one(device: Device, own: BenchRequest, told: Progress, *, stop: threading.Event) -> BenchResult:
        if together.wait() == 0:
            signal.pthread_kill(main, signal.SIGINT)
        assert stop.wait(LONG_S)
        threading.Event().wait(0.3)  # to clean up takes a while
        cleaned.append(device.address)
        raise MeasurementError("It was stopped")

    same = Device("ssh:a", "later")
    with pytest.raises(KeyboardInterrupt):
        bench_fleet([*devices("ssh:a", "ssh:b"), same], request(tmp_path), bench_one=bench_one)
    assert sorted(cleaned) == ["ssh:a", "ssh:b"]  # what had not begun did not begin


def test_without_another_bencher_the_real_one_is_asked(tmp_path: Path) -> None:
    fleet = bench_fleet(devices("cpu"), request(tmp_path))
    assert fleet.failures[0].what == f"The model file {tmp_path / 'a.onnx'} does not exist."


def test_results_and_failures_are_kept_by_target(bench: BenchResult, tmp_path: Path) -> None:
    results = (replace(bench, target="kitchen"), emulated(bench, "emu:pi4"))
    paths = write_fleet(tmp_path, Fleet(results, (failure("ssh:pi@attic"),)))
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "kitchen.json",
        "emu-pi4.json",
        "failed/ssh-pi@attic.json",
    ]
    assert [BENCH_DOCUMENT.read(path) for path in paths[:2]] == list(results)
    assert read_failures(tmp_path) == (failure("ssh:pi@attic"),)


def test_a_result_takes_the_place_of_its_targets_own_alone(bench: BenchResult, tmp_path: Path) -> None:
    BENCH_DOCUMENT.write(tmp_path / "mine.json", replace(bench, target="ssh:a"))
    BENCH_DOCUMENT.write(tmp_path / "ssh-b.json", replace(bench, target="ssh-b"))
    (tmp_path / "ssh-c.json").write_text("{")
    now = [replace(bench, target=target, seed=7) for target in ("ssh:a", "ssh:b", "ssh:c")]
    paths = write_fleet(tmp_path, Fleet(tuple(now)))
    assert [path.name for path in paths] == ["mine.json", "ssh-b-2.json", "ssh-c-2.json"]
    assert BENCH_DOCUMENT.read(tmp_path / "mine.json").seed == 7
    assert BENCH_DOCUMENT.read(tmp_path / "ssh-b.json").seed == 0
    assert (tmp_path / "ssh-c.json").read_text() == "{"


@pytest.mark.parametrize("target", ["../../x", "/etc/x", "a b\n", ".", "-rf", "ä:ö"])
def test_no_target_leaves_the_folder(bench: BenchResult, tmp_path: Path, target: str) -> None:
    folder = tmp_path / "results"
    (path,) = write_fleet(folder, Fleet((replace(bench, target=target),)))
    assert path.parent == folder
    assert not path.name.startswith(("-", "."))
    assert BENCH_DOCUMENT.read(path).target == target


def test_a_device_that_fails_leaves_what_it_had_and_one_that_works_again_no_failure(
    bench: BenchResult, tmp_path: Path
) -> None:
    own = replace(bench, target="board")
    (path,) = write_fleet(tmp_path, Fleet((own,)))
    write_fleet(tmp_path, Fleet((), (failure("board"), failure("other"))))
    assert BENCH_DOCUMENT.read(path) == own
    assert [one.target for one in read_failures(tmp_path)] == ["board", "other"]
    write_fleet(tmp_path, Fleet((replace(own, seed=3),)))
    assert BENCH_DOCUMENT.read(path).seed == 3
    assert [one.target for one in read_failures(tmp_path)] == ["other"]


def test_a_phone_that_works_again_has_no_failure_whatever_its_backends(bench: BenchResult, tmp_path: Path) -> None:
    write_fleet(tmp_path, Fleet((), (failure("phone"), failure("phone:gpu"), failure("phone:npu"))))
    write_fleet(tmp_path, Fleet((replace(bench, target="phone:gpu"),)))
    assert [one.target for one in read_failures(tmp_path)] == ["phone:npu"]


def test_a_result_without_a_file_is_a_failure(bench: BenchResult, tmp_path: Path) -> None:
    gone = replace(bench, target="board", files=(), failures=(Failure("a.onnx", "it fell over"),))
    fleet = Fleet((gone,))
    assert fleet.empty
    (path,) = write_fleet(tmp_path, fleet)
    assert path.parent.name == "failed"
    assert read_failures(tmp_path)[0].what == "a.onnx: it fell over"


def test_a_place_that_takes_no_files_is_said(bench: BenchResult, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_fleet(tmp_path / "file", Fleet((bench,)))


def test_a_failure_that_somebody_edited_is_refused(tmp_path: Path) -> None:
    (path,) = write_fleet(tmp_path, Fleet((), (failure("board"),)))
    path.write_text(path.read_text().replace("switched off", "fine"))
    with pytest.raises(ArtifactError, match="changed"):
        read_failures(tmp_path)
