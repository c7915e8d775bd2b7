"""Debian's own adb against the small daemon, and the daemon's paths."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .adb import Phone
from .adb_files import inside
from .test_emulated_board import soon

pytest_plugins = ["tests.boards.fixtures"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/a/b", "a/b"),
        ("a//./b", "a/b"),
        ("/../../a", "a"),
        ("/a/../../../etc/passwd", "etc/passwd"),
        ("/out/x", "etc/x"),
        ("/up/x", "x"),
        ("/out", "out"),
        ("/out/.", "etc"),
        ("/", ""),
    ],
)
def test_no_path_leads_out_of_the_board(tmp_path: Path, path: str, found: str):
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "up").symlink_to("../../..")
    assert inside(tmp_path, path) == tmp_path / found


def test_links_in_a_circle_are_refused(tmp_path: Path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        inside(tmp_path, "/a/x")


@pytest.mark.boards
def test_a_shell_passes_on_input_output_and_status(adb_phone: Phone):
    data = bytes(range(256)) * 2000
    done = adb_phone.run("shell", "cat; echo wrong >&2; exit 9", input=data)
    assert (done.returncode, done.stdout, done.stderr) == (9, data, b"wrong\n")
    assert adb_phone.run("shell", "uname -m; id -un; pwd").stdout.split() == [b"aarch64", b"shell", b"/data/local/tmp"]
    assert adb_phone.run("shell", input=b"echo $((6 * 7))\nexit 3\n").returncode == 3


@pytest.mark.boards
def test_the_older_shell_and_exec_have_one_output(adb_phone: Phone):
    assert adb_phone.run("shell", "-x", "echo a; echo b >&2; exit 3").stdout == b"a\nb\n"
    assert adb_phone.run("exec-out", r"printf 'a\r\nb'").stdout == b"a\r\nb"
    assert adb_phone.run("exec-in", "cat > in", input=b"in\0").returncode == 0
    place = adb_phone.board.root / "data/local/tmp/in"
    assert soon(lambda: place.exists() and place.read_bytes() == b"in\0")


@pytest.mark.boards
def test_a_phone_is_described_as_a_phone_is(adb_phone: Phone):
    assert b"\tdevice\n" in adb_phone.run("devices").stdout
    assert adb_phone.run("shell", "getprop ro.product.cpu.abi").stdout == b"arm64-v8a\n"
    assert b"[ro.build.version.sdk]: [34]" in adb_phone.run("shell", "getprop").stdout
    assert b"level: 87" in adb_phone.run("shell", "dumpsys battery").stdout
    assert b"Thermal Status: 0" in adb_phone.run("shell", "dumpsys thermalservice").stdout
    assert adb_phone.run("shell", "cat /sys/class/power_supply/battery/current_now").stdout == b"-312500\n"


@pytest.mark.boards
def test_files_are_pushed_and_pulled(adb_phone: Phone, tmp_path: Path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "run me").write_bytes(data)
    (tmp_path / "run me").chmod(0o755)
    place = "/data/local/tmp/new/a 'b' $(c)"
    assert adb_phone.run("push", str(tmp_path / "run me"), place).returncode == 0
    pushed = inside(adb_phone.board.root, place)
    assert pushed.read_bytes() == data
    assert pushed.stat().st_mode & 0o777 == 0o777
    assert adb_phone.run("pull", place, str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == data
    assert adb_phone.run("pull", "/data/local/tmp/new", str(tmp_path / "folder")).returncode == 0
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a 'b' $(c)"]


@pytest.mark.boards
def test_what_cannot_be_written_or_read_is_said(adb_phone: Phone, tmp_path: Path):
    (tmp_path / "big").write_bytes(bytes(65 << 20))
    full = adb_phone.run("push", str(tmp_path / "big"), "/data/local/tmp/")
    assert full.returncode == 1
    assert b"No space left on device" in full.stdout + full.stderr
    assert adb_phone.run("shell", "ls -A").stdout == b""
    (tmp_path / "small").write_bytes(b"x")
    denied = adb_phone.run("push", str(tmp_path / "small"), "/system/small")
    assert b"Permission denied" in denied.stdout + denied.stderr
    missing = adb_phone.run("pull", "/data/local/tmp/none", str(tmp_path / "none"))
    assert b"does not exist" in missing.stdout + missing.stderr


@pytest.mark.boards
def test_a_client_that_goes_hangs_up_on_the_shell(adb_phone: Phone):
    board = adb_phone.board
    for cut in ("client", "connection", "server", "phone"):
        argv = [str(adb_phone.adb), "-s", adb_phone.serial, "shell", "sleep 424242"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert soon(lambda: any(one.argv[-1:] == ("424242",) for one in board.processes())), cut
            if cut == "client":
                process.kill()
            elif cut == "connection":
                adb_phone.drop_connections()
            elif cut == "server":
                adb_phone.kill_server()
            else:
                adb_phone.vanish()
            assert soon(lambda: board.processes() == ()), cut
            process.wait(20)
        if cut == "connection":
            assert soon(lambda: b"\tdevice\n" in adb_phone.run("devices").stdout)
        elif cut == "server":
            subprocess.run([adb_phone.adb, "connect", adb_phone.serial], capture_output=True, check=True)
