"""Boards and a GPU for tests. A test module that uses them says ``pytest_plugins = ["tests.boards.fixtures"]``.

A test that asks for a board is marked ``boards``, one that asks for the GPU ``gpu``; where these cannot run it is
skipped, or fails where they are required, and says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from device_bench.targets.emulated import Board, Boards, build_boards, emulated_board
from runtime.gpu.adapter import Adapter
from runtime.gpu.drivers import CHOICE, GpuDriver
from runtime.gpu.run import GpuWorker

from .adb import SHELL, Phone, phone
from .gpu import software_gpu_driver
from .sshd import SshServer, ssh_server
from .tools import Tools, unpacked_tools


@pytest.fixture(scope="session")
def boards() -> Boards:
    """What boards are started from."""
    return build_boards()


@pytest.fixture(scope="session")
def software_gpu() -> tuple[GpuDriver, Adapter]:
    """A Vulkan driver that computes on the CPU, and LiteRT's name for it."""
    return software_gpu_driver()


@pytest.fixture(scope="module")
def gpu_worker(software_gpu: tuple[GpuDriver, Adapter]) -> Iterator[GpuWorker]:
    """A process that runs files on that driver."""
    with GpuWorker(software_gpu[0]) as worker:
        yield worker


@pytest.fixture
def gpu_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports look for a graphics driver that computes on the CPU; elsewhere in the tests they look for none."""
    monkeypatch.setenv(CHOICE, "software")


@pytest.fixture(scope="session")
def board_tools() -> Tools:
    """Debian's sshd and adb."""
    return unpacked_tools()


@pytest.fixture
def pi4(boards: Boards) -> Iterator[Board]:
    """A Raspberry Pi 4 of one's own."""
    with emulated_board("pi4", boards=boards) as board:
        yield board


@pytest.fixture
def pi5(boards: Boards) -> Iterator[Board]:
    """A Raspberry Pi 5 of one's own."""
    with emulated_board("pi5", boards=boards) as board:
        yield board


@pytest.fixture
def ssh_board(boards: Boards, board_tools: Tools, tmp_path: Path) -> Iterator[SshServer]:
    """A Raspberry Pi 4 that ssh reaches."""
    with (
        emulated_board("pi4", boards=boards, layers=[board_tools.ssh_layer]) as board,
        ssh_server(board, board_tools, tmp_path / "sshd", host="pi4") as server,
    ):
        yield server


@pytest.fixture
def adb_phone(boards: Boards, board_tools: Tools, tmp_path: Path) -> Iterator[Phone]:
    """What adb takes for a phone, with a disk of 64 MiB."""
    with (
        emulated_board(
            "pi5", boards=boards, layers=[board_tools.android_layer], account=SHELL, disk_bytes=64 << 20
        ) as board,
        phone(board, board_tools, tmp_path / "adb") as found,
    ):
        yield found
