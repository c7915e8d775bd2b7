"""A board as a phone: the daemon in a thread, and Debian's adb with a server of its own."""

from __future__ import annotations

import asyncio
import os
import queue
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from device_bench.targets.emulated import Account, Board

from .adbd import Connection, listening
from .sshd import free_port
from .tools import Tools

SHELL = Account("shell", 2000, "/data/local/tmp", "/system/bin:/usr/bin:/bin", "/system/bin/sh")
"""Who runs commands on a phone; a board for adb is started with it and with ``tools.android_layer``."""

_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class _Daemon:
    """The daemon's thread.

    Attributes:
        port: on loopback.
        loop: runs in the thread.
        connections: that are open.
        ended: ends the thread when set.
        thread: itself.
    """

    port: int
    loop: asyncio.AbstractEventLoop
    connections: set[Connection]
    ended: asyncio.Event
    thread: threading.Thread

    def stop(self) -> None:
        """Ends it, once or again."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.ended.set)
            self.thread.join(_TIMEOUT_S)


@dataclass
class Phone:
    """A board that adb reaches.

    Attributes:
        board: it.
        serial: for ``adb -s``.
        adb: the program, with its own server and home.
        port: of its server, on loopback.
    """

    board: Board
    serial: str
    adb: Path
    port: int
    _daemon: _Daemon
    _server: subprocess.Popen[bytes]

    def run(self, *arguments: str, input: bytes = b"", timeout_s: float = 30.0) -> subprocess.CompletedProcess[bytes]:
        """Runs adb for this phone."""
        argv = [str(self.adb), "-s", self.serial, *arguments]
        return subprocess.run(argv, input=input, capture_output=True, timeout=timeout_s, check=False)

    def drop_connections(self) -> None:
        """Cuts all connections of the daemon, as a cable does that is pulled."""

        def abort() -> None:
            for connection in self._daemon.connections:
                connection.writer.transport.abort()

        self._daemon.loop.call_soon_threadsafe(abort)

    def vanish(self) -> None:
        """Ends the daemon, as with a phone that is switched off."""
        self._daemon.stop()

    def kill_server(self) -> None:
        """Kills adb's server on this machine."""
        self._server.kill()
        self._server.wait()


@contextmanager
def phone(board: Board, tools: Tools, folder: Path) -> Iterator[Phone]:
    """Connects adb to a board and yields it; at the end the server and the daemon are gone.

    Args:
        board: started with ``SHELL`` and ``tools.android_layer``.
        tools: where adb is.
        folder: for adb's home; created.
    """
    folder.mkdir(parents=True)
    port = free_port()
    adb = folder / "adb"
    environment = {"HOME": str(folder), "ANDROID_ADB_SERVER_PORT": str(port), "LD_LIBRARY_PATH": tools.libraries}
    words = [f"{name}={value}" for name, value in environment.items()]
    adb.write_text(f'#!/bin/sh\nexec {shlex.join(["env", *words, str(tools.adb)])} "$@"\n')
    adb.chmod(0o755)
    with _running(board) as daemon, (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(tools.adb), "nodaemon", "server"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
        )
        try:
            found = Phone(board, f"127.0.0.1:{daemon.port}", adb, port, daemon, server)
            _connect(found, folder / "log")
            yield found
        finally:
            # a client whose server was killed may have started another
            subprocess.run([adb, "kill-server"], capture_output=True, timeout=_TIMEOUT_S, check=False)
            server.kill()
            server.wait()


def _connect(phone: Phone, log: Path) -> None:
    until = time.monotonic() + _TIMEOUT_S
    while True:
        # one server is under way; a client would start another
        if _listens(phone.port):
            done = subprocess.run(
                [phone.adb, "connect", phone.serial], capture_output=True, timeout=_TIMEOUT_S, check=False
            )
            if b"connected to" in done.stdout and phone.run("get-state").stdout.strip() == b"device":
                return
        if time.monotonic() > until:
            raise RuntimeError(f"adb did not connect:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def _running(board: Board) -> Iterator[_Daemon]:
    """Runs the daemon in a thread with a loop of its own."""
    ready: queue.Queue[_Daemon] = queue.Queue()

    async def serve() -> None:
        ended = asyncio.Event()
        async with listening(board) as (port, connections):
            ready.put(_Daemon(port, asyncio.get_running_loop(), connections, ended, threading.current_thread()))
            await ended.wait()

    threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
    daemon = ready.get(timeout=_TIMEOUT_S)
    try:
        yield daemon
    finally:
        daemon.stop()
