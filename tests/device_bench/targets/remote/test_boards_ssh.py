"""Benches on emulated boards over real ssh, and every way in which they can fail."""

import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from device_bench.documents.measurement import Sampling
from device_bench.documents.request import BenchRequest
from device_bench.targets import ssh
from device_bench.targets.base import Device
from device_bench.targets.emulated import emulated_board
from device_bench.targets.fleet import bench_fleet
from device_bench.targets.remote import connection
from device_bench.targets.ssh import bench_over_ssh, check_ssh
from runtime import MeasurementError
from tests.boards.sshd import ssh_server

pytestmark = pytest.mark.boards


@pytest.fixture
def served(boards, board_tools, tmp_path):
    """Starts boards with an sshd each; all end with the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(core="pi4", host="board", **options):
            board = stack.enter_context(emulated_board(core, boards=boards, layers=(board_tools.ssh_layer,), **options))
            server = stack.enter_context(ssh_server(board, board_tools, tmp_path / host, host))
            return board, server, Device(f"ssh:{host}", ssh_config=server.config)

        yield start


def wanted(*files, **options):
    return BenchRequest(files, sampling=Sampling.exactly(3), **options)


def is_clean(board):
    """Whether nothing of ours runs or lies on the board."""
    home = board.root / "home/pi"
    try:
        lying = [path for path in home.rglob("*") if "pocketvit" in str(path.relative_to(home))]
    except FileNotFoundError:  # it is going this very moment
        return False
    return not lying and not board.processes()


def becomes_clean(board, seconds=30.0):
    end = time.monotonic() + seconds
    while not is_clean(board):
        assert time.monotonic() < end, (board.processes(), list((board.root / "home/pi").rglob("*"))[:9])
        time.sleep(0.1)


def when(stage, do):
    """Returns a progress callback that calls ``do`` once, in a thread, when ``stage`` begins."""
    begun = threading.Event()

    def progress(name, done, total, note=""):
        if name == stage and not begun.is_set():
            begun.set()
            threading.Thread(target=do).start()

    progress.begun = begun
    return progress


def client_of(server):
    """Returns the ssh clients here that talk to that server."""
    from pathlib import Path

    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(b"ssh\0") or b"/ssh\0" in words[:40]:
            found += [int(folder.name)] if str(server.config).encode() in words else []
    return found


def test_an_emulated_board_gives_answers_and_no_times(served, onnx_file):
    board, _, device = served()
    result = bench_over_ssh(device, wanted(onnx_file))
    assert result.emulated
    assert result.target == "ssh:board"
    assert result.before.cpu_model == "Cortex-A72"
    assert result.before.architecture == "aarch64"
    assert "Raspberry Pi 4" in result.before.board
    (one,) = result.files
    assert (one.measurements, one.startup, one.energy, one.throughput) == ((), None, None, ())
    assert not result.failures
    becomes_clean(board)


def test_a_check_leaves_nothing(served):
    board, _, device = served("pi5")
    found = {one.name: one.value for one in check_ssh(device)}
    assert found["link"] == "Linux on aarch64"
    assert all(found[name] for name in ("python", "numpy", "ai-edge-litert", "onnxruntime", "free space"))
    becomes_clean(board)


def test_a_killed_client_is_told_and_the_board_clears_up(served, onnx_file):
    board, server, device = served()
    progress = when("start", lambda: [os.kill(number, signal.SIGKILL) for number in client_of(server)])
    with pytest.raises(MeasurementError, match=r"link to ssh:board ended.*try again"):
        bench_over_ssh(device, wanted(onnx_file), progress)
    becomes_clean(board)


@pytest.mark.parametrize("how", ["drop_connections", "stop"])
def test_a_cut_connection_is_told_and_the_board_clears_up(served, onnx_file, how):
    board, server, device = served()
    with pytest.raises(MeasurementError, match=r"link to ssh:board was cut|ssh to ssh:board failed"):
        bench_over_ssh(device, wanted(onnx_file), when("start", getattr(server, how)))
    becomes_clean(board)


def test_a_board_that_falls_silent_is_given_up_and_clears_up_by_itself(served, onnx_file, monkeypatch):
    monkeypatch.setattr(ssh, "_SILENT_S", 1)
    monkeypatch.setattr(connection, "LOST_S", 4)
    board, server, device = served()
    with pytest.raises(MeasurementError, match="link to ssh:board was cut"):
        bench_over_ssh(device, wanted(onnx_file), when("start", server.freeze_connections))
    becomes_clean(board)


def test_a_full_disk_is_told_with_what_is_needed(served, onnx_file):
    board, _, device = served(disk_bytes=1 << 20)
    with pytest.raises(MeasurementError, match=r"no space left on ssh:board. Expected \d+\.\d MB.*Free some space"):
        bench_over_ssh(device, wanted(onnx_file))
    becomes_clean(board)


def test_a_missing_engine_is_told_with_its_cure(served, onnx_file):
    board, _, device = served(engines=False)
    with pytest.raises(MeasurementError, match=r"numpy is not installed.*pip install numpy onnxruntime.*--bootstrap"):
        bench_over_ssh(device, wanted(onnx_file))
    found = {one.name: one for one in check_ssh(device)}
    assert found["onnxruntime"].value is None
    assert "pip install onnxruntime" in found["onnxruntime"].fix
    becomes_clean(board)


def test_a_wrong_host_key_is_told(served, onnx_file):
    _, server, device = served()
    server.change_host_key()
    with pytest.raises(MeasurementError, match=r"host key of ssh:board.*connect once by hand"):
        bench_over_ssh(device, wanted(onnx_file))


def test_a_refused_login_is_told(served, onnx_file):
    _, server, device = served()
    server.refuse_login()
    with pytest.raises(MeasurementError, match=r"ssh:board refused the login.*ssh-copy-id"):
        bench_over_ssh(device, wanted(onnx_file))


def test_an_engine_that_hangs_costs_its_own_row(served, onnx_file, tmp_path):
    board, _, device = served()
    other = tmp_path / "other.onnx"
    other.write_bytes(onnx_file.read_bytes())

    def hang():
        # the first process that measures, once it is there
        while True:
            for process in board.processes():
                if "device_bench.worker.child" in process.argv and process.number != first_child(board):
                    board.run(f"kill -STOP {process.number}")
                    return
            time.sleep(0.05)

    result = bench_over_ssh(device, replace(wanted(onnx_file, other), timeout_s=1.0), when("start", hang))
    assert [failure.file for failure in result.failures] == [onnx_file.name]
    assert "gave no sign for" in result.failures[0].what
    assert [one.file for one in result.files] == ["other.onnx"]
    becomes_clean(board)


def first_child(board):
    """Returns the process of the bench itself, which starts the others."""
    numbers = [process.number for process in board.processes() if "device_bench.worker.child" in process.argv]
    return min(numbers, default=0)


def test_a_stop_here_ends_it_there(served, onnx_file):
    board, _, device = served()
    stop = threading.Event()
    with pytest.raises(MeasurementError, match="ssh:board was stopped"):
        bench_over_ssh(device, wanted(onnx_file), when("start", stop.set), stop=stop)
    becomes_clean(board)


def test_a_board_that_vanishes_costs_its_own_row_alone(served, onnx_file):
    board, _, device = served("pi4", "stays")
    _, lost_server, lost = served("pi5", "vanishes")
    fleet = bench_fleet((device, lost), wanted(onnx_file), when("ssh:vanishes: start", lost_server.stop))
    assert [result.target for result in fleet.results] == ["ssh:stays"]
    assert [failure.target for failure in fleet.failures] == ["ssh:vanishes"]
    becomes_clean(board)


def test_hostile_names_reach_the_board_as_data(served, onnx_file, tmp_path):
    board, _, device = served()
    pieces = ["$(touch hit)", "`touch hit`", ";touch hit;", "a b", "'", '"', "\n", "-rf", "{folder}", "|touch hit&"]
    files = []
    for number, name in enumerate(f"{first}{second}.onnx" for first in pieces for second in pieces):
        folder = tmp_path / f"files{number}"
        folder.mkdir()
        # what is no manifest ends the file's row before an engine sees it
        (folder / f"{name}.json").write_text("{}")
        files.append(folder / name)
        files[-1].write_bytes(b"not a model")
    assert len({file.name for file in files}) == 100
    result = bench_over_ssh(device, wanted(*files, onnx_file))
    assert [one.file for one in result.files] == [onnx_file.name]
    assert sorted(failure.file for failure in result.failures) == sorted(file.name for file in files)
    assert not [path for folder in ("home", "tmp", "root") for path in (board.root / folder).rglob("hit")]
    becomes_clean(board)
