"""An emulated board that runs: its files, processes and users are its own, and its counts repeat."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from device_bench.targets.emulated import MARKER, Board, Boards, count_file, emulated_board
from runtime import MeasurementError

pytest_plugins = ["tests.boards.fixtures"]
pytestmark = pytest.mark.boards

GOLDEN = Path(__file__).parents[1] / "golden"


def soon(true: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Returns whether something becomes true."""
    until = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def said(board: Board, line: str) -> str:
    done = board.run(line)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_a_base_says_what_is_in_it(boards: Boards):
    record = boards.record
    assert {"numpy", "ai-edge-litert", "onnxruntime", "python", "qemu"} <= record.versions.keys()
    assert record.versions["python"].startswith("3.11.")
    names = [package.file for package in record.packages]
    for start in ("python3.11-minimal_3.11", "libc6_", "qemu-user_", "onnxruntime-", "numpy-"):
        assert any(name.startswith(start) for name in names), start
    assert {len(package.sha256) for package in record.packages} == {64}


def test_a_board_is_what_it_says(pi4: Board, pi5: Board):
    for board, model in ((pi4, "Raspberry Pi 4"), (pi5, "Raspberry Pi 5")):
        assert said(board, "uname -m; id -un; pwd").split() == ["aarch64", "pi", "/home/pi"]
        assert model in said(board, "cat /proc/cpuinfo")
        assert said(board, "cat /sys/firmware/devicetree/base/model").startswith(model)
        assert board.core.emulator_cpu in said(board, f"cat /{MARKER}")
    assert ("asimddp" in said(pi4, "cat /proc/cpuinfo"), "asimddp" in said(pi5, "cat /proc/cpuinfo")) == (False, True)


def test_input_output_and_status_are_passed_on(pi4: Board):
    data = bytes(range(256)) * 5000
    done = pi4.run("cat; echo wrong >&2; exit 42", input=data)
    assert (done.returncode, done.stdout, done.stderr) == (42, data, b"wrong\n")
    argv = pi4.link.argv('echo "$0" \'$HOME\' -- "a  b"')
    assert subprocess.run(argv, capture_output=True, check=True).stdout == b"/bin/sh $HOME -- a  b\n"
    assert pi4.link.emulated


def test_many_links_at_once_see_the_same_files(pi4: Board):
    waiting = [
        subprocess.Popen(pi4.link.argv(f"until [ -e go ]; do sleep 0.05; done; cat go; echo {n} > {n}"), stdout=-1)
        for n in range(4)
    ]
    pi4.run("echo now > start; mv start go")
    assert [process.communicate(timeout=30)[0] for process in waiting] == [b"now\n"] * 4
    assert said(pi4, "cat 0 1 2 3").split() == ["0", "1", "2", "3"]
    assert (pi4.root / "home/pi/go").read_text() == "now\n"


def test_what_one_board_changes_no_other_sees(boards: Boards, pi4: Board):
    assert said(pi4, "echo mine > file; echo mine > /tmp/file; cat file") == "mine\n"
    (pi4.root / "etc/hosts").write_text("changed\n")
    with emulated_board("pi4", boards=boards) as other:
        assert said(other, "ls -A ~ /tmp").split() == ["/home/pi:", "/tmp:"]
        assert "localhost" in said(other, "cat /etc/hosts")
        root = other.root
        assert root.is_dir()
    assert not root.exists()
    assert "localhost" in (boards.userland / "etc/hosts").read_text()
    assert not (boards.userland / "home/pi/file").exists()


def test_with_a_board_all_its_processes_end(boards: Boards):
    with emulated_board("pi4", boards=boards) as board:
        board.run("(trap '' HUP TERM INT; setsid sleep 424242 & sleep 424242 &) > /dev/null 2>&1 < /dev/null")
        client = subprocess.Popen(board.link.argv("exec sleep 424242"), stdin=subprocess.PIPE)
        asleep = ("sleep", "424242")
        assert soon(lambda: [one.argv[-2:] for one in board.processes()].count(asleep) == 3)
        holder = board.holder
    assert client.wait(10) != 0
    client.communicate()
    assert board.processes() == ()
    assert soon(lambda: not Path(f"/proc/{holder}").exists())
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _sleeps(path)]


def test_a_board_ends_with_the_process_that_started_it(boards: Boards):
    program = (
        "import time\n"
        "from device_bench.targets.emulated import emulated_board\n"
        "with emulated_board('pi4') as board:\n"
        "    print(board.holder, flush=True)\n"
        "    time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        holder = Path("/proc") / process.stdout.readline().decode().strip()
        assert holder.exists()
        process.kill()
    assert soon(lambda: not holder.exists())


def _sleeps(path: Path) -> bool:
    try:
        return path.read_bytes().endswith(b"sleep\x00424242\x00")
    except OSError:
        return False


def test_a_user_of_the_board_is_no_root(pi4: Board):
    for line in ("echo > /etc/x", "rm /bin/sh", "mkdir /usr/lib/x", "mount -t tmpfs none /tmp", "chown 0 ."):
        assert pi4.run(line).returncode != 0, line
    assert pi4.run("kill -9 1; kill -9 -1; true").returncode in (0, -9)
    assert said(pi4, "echo still there") == "still there\n"


def test_a_disk_has_the_size_it_is_given(boards: Boards):
    with emulated_board("pi4", boards=boards, disk_bytes=8 << 20) as board:
        done = board.run("head -c 9000000 /dev/zero > big")
        assert done.returncode != 0
        assert (board.root / "home/pi/big").stat().st_size <= 8 << 20
        assert said(board, "rm big; head -c 1000000 /dev/zero > small; wc -c < small") == "1000000\n"


def test_a_board_without_engines_has_none(boards: Boards):
    with emulated_board("pi5", boards=boards, engines=False) as board:
        assert b"No module named 'numpy'" in board.run("python3 -c 'import numpy'").stderr
        assert said(board, "python3 -m venv --without-pip v && v/bin/python -c 'print(1)'") == "1\n"


def test_a_layer_is_put_over_the_base(boards: Boards, tmp_path: Path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("over\n")
    with emulated_board("pi4", boards=boards, layers=[tmp_path]) as board:
        assert said(board, "cat /etc/hosts") == "over\n"


def test_a_program_that_does_not_end_is_given_up(pi4: Board):
    with pytest.raises(MeasurementError, match=r"emu:pi4 did not end.*0\.2 s"):
        pi4.run("sleep 100", timeout_s=0.2)


def test_a_board_that_cannot_start_says_why(boards: Boards, tmp_path: Path):
    with pytest.raises(MeasurementError, match=r"emu:pi4 did not start.*doctor") as caught:
        with emulated_board("pi4", boards=boards, layers=[tmp_path / "nothing"]):
            pass
    assert "nothing" in str(caught.value)


def test_integer_dot_products_are_counted_where_the_core_has_them(pi4: Board, pi5: Board):
    older, newer = (count_file(board, GOLDEN / "tiny-int8.tflite", runs=2) for board in (pi4, pi5))
    assert (older.core, newer.core) == ("cortex-a72", "cortex-a76")
    assert len(older.all) == len(newer.all) == 2
    assert older.of("dot") == 0
    assert newer.of("dot") > 0


def test_counts_repeat_in_another_process_and_grow_with_the_work(pi4: Board, tmp_path: Path):
    files = [write_products(tmp_path / f"{rows}.onnx", rows) for rows in (128, 136)]
    first, again, wider = (count_file(pi4, file) for file in (files[0], files[0], files[1]))
    assert first.of("simd") == again.of("simd")
    assert abs(first.of("all") - again.of("all")) <= 1e-3 * first.of("all")
    assert wider.of("simd") > first.of("simd")
    # the multiply-accumulates of 4 products, 4 in an instruction, are most of the vector instructions
    assert 1 < first.of("simd") / (4 * 128 * 256 * 256 / 4) < 2
    assert list((pi4.root / "home/pi").glob("counts*")) == []


def test_a_file_that_cannot_run_is_not_counted(pi4: Board, tmp_path: Path):
    (tmp_path / "broken.tflite").write_bytes(b"no model")
    with pytest.raises(MeasurementError, match=r"broken\.tflite could not be counted"):
        count_file(pi4, tmp_path / "broken.tflite")


def write_products(path: Path, rows: int) -> Path:
    """Writes a chain of 4 matrix products of ``(rows, 256)`` by ``(256, 256)``."""
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.full((256, 256), 1e-3, np.float32), "w")
    nodes = [helper.make_node("MatMul", [f"x{n}", "w"], [f"x{n + 1}"]) for n in range(4)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (rows, 256)) for name in ("x0", "x4")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
