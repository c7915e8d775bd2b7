"""The real ssh, scp and sftp against a real sshd whose sessions land on an emulated board."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .sshd import SshServer
from .test_emulated_board import soon

pytest_plugins = ["tests.boards.fixtures"]
pytestmark = pytest.mark.boards


def ssh(server: SshServer, *words: str, program: str = "ssh", input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    argv = [program, "-F", str(server.config), "-o", "BatchMode=yes", *words]
    return subprocess.run(argv, input=input, capture_output=True, timeout=60, check=False)


def client(server: SshServer, line: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["ssh", "-F", str(server.config), server.host, line], stdin=-1, stderr=-1)


def test_a_session_lands_on_the_board(ssh_board: SshServer, tmp_path: Path):
    data = bytes(range(256)) * 1000
    done = ssh(ssh_board, "pi4", "uname -m; cat; id -un >&2; exit 7", input=data)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"aarch64\n" + data, b"pi\n")
    assert ssh(ssh_board, "pi4", input=b"echo $HOME\nexit 3\n").stdout == b"/home/pi\n"


def test_scp_and_sftp_land_on_the_board(ssh_board: SshServer, tmp_path: Path):
    (tmp_path / "a b").write_bytes(b"data")
    assert ssh(ssh_board, str(tmp_path / "a b"), "pi4:new name", program="scp").returncode == 0
    assert (ssh_board.board.root / "home/pi/new name").read_bytes() == b"data"
    assert ssh(ssh_board, "-O", "pi4:new*", str(tmp_path / "back"), program="scp").returncode == 0
    assert (tmp_path / "back").read_bytes() == b"data"
    assert b"/home/pi" in ssh(ssh_board, "pi4", program="sftp", input=b"pwd\n").stdout


def test_a_cut_connection_ends_what_the_board_reads(ssh_board: SshServer):
    board = ssh_board.board
    for cut in ("client", "server"):
        with client(ssh_board, f"cat; echo end > {cut}") as process:
            assert soon(lambda: any(one.argv == ("cat",) for one in board.processes()))
            if cut == "client":
                process.kill()
            else:
                ssh_board.drop_connections()
                assert process.wait(20) == 255
            assert soon(lambda cut=cut: (board.root / "home/pi" / cut).exists())
        assert soon(lambda: board.processes() == ())


def test_a_frozen_connection_is_noticed_by_the_client_alone(ssh_board: SshServer):
    argv = ["ssh", "-F", str(ssh_board.config), "-oServerAliveInterval=1", "-oServerAliveCountMax=1", "pi4", "cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert soon(lambda: ssh_board.board.processes() != ())
        ssh_board.freeze_connections()
        assert process.wait(20) == 255


def test_a_login_is_refused_and_a_host_key_changes(ssh_board: SshServer):
    assert ssh(ssh_board, "pi4", "true").returncode == 0
    ssh_board.refuse_login()
    done = ssh(ssh_board, "pi4", "true")
    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr
    ssh_board.change_host_key()
    done = ssh(ssh_board, "pi4", "true")
    assert done.returncode == 255
    assert b"Host key verification failed" in done.stderr


def test_a_stopped_server_refuses_connections(ssh_board: SshServer):
    ssh_board.stop()
    assert b"Connection refused" in ssh(ssh_board, "pi4", "true").stderr
    ssh_board.start()
    assert ssh(ssh_board, "pi4", "true").returncode == 0
