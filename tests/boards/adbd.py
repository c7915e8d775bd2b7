"""A small adb daemon: Debian's own adb connects to it and finds an emulated board's shell and files.

The protocol over TCP is Android's: messages CNXN, OPEN, OKAY, WRTE and CLSE; services ``shell`` (with and without its
second version's packets), ``exec`` and ``sync``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from device_bench.targets.emulated import Board

from .adb_files import serve_files
from .android import PROPERTIES

_NAMES = (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
CNXN, OPEN, OKAY, WRTE, CLSE = (int.from_bytes(name, "little") for name in _NAMES)
_VERSION, _MOST_BYTES = 0x01000001, 1 << 20
_HEADER = struct.Struct("<6I")
_PATIENCE_S = 2.0

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
_PACKET = struct.Struct("<BI")


@dataclass
class Stream:
    """One service in use.

    Attributes:
        send: sends a message of this stream.
        most_bytes: of one message.
    """

    send: Callable[[int, bytes], Awaitable[None]]
    most_bytes: int
    incoming: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    acknowledged: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False
    _rest: bytes = b""

    async def read(self) -> bytes:
        """Returns what came next; nothing once the client has closed."""
        data = await self.incoming.get()
        if data is None:
            self.incoming.put_nowait(None)
            return b""
        await self.send(OKAY, b"")
        return data

    async def exactly(self, size: int) -> bytes:
        """Returns the next ``size`` bytes.

        Raises:
            EOFError: the client closed before.
        """
        while len(self._rest) < size:
            data = await self.read()
            if not data:
                raise EOFError
            self._rest += data
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    async def write(self, data: bytes) -> None:
        """Sends ``data``, and returns when the client has taken it.

        Raises:
            EOFError: the client has closed.
        """
        for start in range(0, len(data), self.most_bytes):
            self.acknowledged.clear()
            if self.gone:
                raise EOFError
            await self.send(WRTE, data[start : start + self.most_bytes])
            await self.acknowledged.wait()

    def hang_up(self) -> None:
        """Tells whoever reads or writes that the client has closed."""
        self.gone = True
        self.acknowledged.set()
        self.incoming.put_nowait(None)


@dataclass(eq=False)
class Connection:
    """One adb server that is connected."""

    board: Board
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    streams: dict[int, Stream] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    most_bytes: int = 4096

    async def serve(self) -> None:
        """Answers until the other side goes."""
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    command, first, second, size, _, magic = _HEADER.unpack(await self.reader.readexactly(_HEADER.size))
                    if magic != command ^ 0xFFFFFFFF or size > _MOST_BYTES:
                        break
                    await self._take(command, first, second, await self.reader.readexactly(size))
        finally:
            for stream in self.streams.values():
                stream.hang_up()
            self.writer.close()
            # services end by themselves once their stream is gone
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _take(self, command: int, first: int, second: int, data: bytes) -> None:
        if command == CNXN:
            self.most_bytes = min(second, _MOST_BYTES)
            named = ("ro.product.name", "ro.product.model", "ro.product.device")
            banner = "device::" + "".join(f"{name}={PROPERTIES[name]};" for name in named) + "features=shell_v2,cmd"
            await self._send(CNXN, _VERSION, _MOST_BYTES, banner.encode())
        elif command == OPEN:
            task = asyncio.create_task(self._open(first, data.rstrip(b"\0").decode()))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif second not in self.streams:
            if command == WRTE:
                await self._send(CLSE, 0, first)
        elif command == OKAY:
            self.streams[second].acknowledged.set()
        elif command == WRTE:
            self.streams[second].incoming.put_nowait(data)
        elif command == CLSE:
            self.streams[second].hang_up()

    async def _open(self, theirs: int, service: str) -> None:
        kind, _, argument = service.partition(":")
        name, *options = kind.split(",")
        if name not in ("shell", "exec", "sync"):
            await self._send(CLSE, 0, theirs)
            return
        ours = max(self.streams, default=0) + 1

        async def send(command: int, data: bytes) -> None:
            await self._send(command, ours, theirs, data)

        stream = self.streams[ours] = Stream(send, self.most_bytes)
        with suppress(EOFError, ConnectionError):
            await send(OKAY, b"")
            if name == "sync":
                await serve_files(self.board, stream)
            else:
                await _shell(self.board, stream, argument, packets="v2" in options, apart=name == "shell")
        del self.streams[ours]
        with suppress(ConnectionError):
            await send(CLSE, b"")

    async def _send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        # version 0x01000001 needs no checksum
        self.writer.write(_HEADER.pack(command, first, second, len(data), 0, command ^ 0xFFFFFFFF) + data)
        await self.writer.drain()


async def _shell(board: Board, stream: Stream, line: str, *, packets: bool, apart: bool) -> None:
    """Runs a line, or a shell that reads lines; in packets with its status and standard error, or raw."""
    argv = board.argv_of(line) if line else board.argv([board.account.shell])
    pipe = asyncio.subprocess.PIPE
    errors = pipe if packets else asyncio.subprocess.STDOUT if apart else asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=errors)
    lock = asyncio.Lock()

    async def passed_on(source: asyncio.StreamReader, kind: int) -> None:
        while data := await source.read(1 << 16):
            async with lock:
                await stream.write(_PACKET.pack(kind, len(data)) + data if packets else data)

    feeder = asyncio.create_task(_feed(stream, process, packets))
    try:
        assert process.stdout is not None
        sources = [passed_on(process.stdout, STDOUT)]
        if process.stderr is not None:
            sources.append(passed_on(process.stderr, STDERR))
        await asyncio.gather(*sources)
        status = await process.wait()
        if packets:
            await stream.write(_PACKET.pack(EXIT, 1) + bytes([status if status >= 0 else 128 - status]))
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)
        await _ended(process, hang_up=packets)


async def _feed(stream: Stream, process: asyncio.subprocess.Process, packets: bool) -> None:
    """Passes on what the client sends; when the client goes, hangs up as a phone's daemon does, if it spoke packets."""
    assert process.stdin is not None
    with suppress(EOFError, ConnectionError):
        while True:
            if not packets:
                data = await stream.read()
                if not data:
                    break
            else:
                kind, size = _PACKET.unpack(await stream.exactly(_PACKET.size))
                data = await stream.exactly(size)
                if kind == CLOSE_STDIN:
                    process.stdin.close()
                if kind != STDIN:
                    continue
            process.stdin.write(data)
            await process.stdin.drain()
    process.stdin.close()
    if stream.gone and packets:
        _hang_up(process)


def _hang_up(process: asyncio.subprocess.Process) -> None:
    # the process here only waits for the one on the board
    with suppress(OSError):
        for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(number), signal.SIGHUP)


async def _ended(process: asyncio.subprocess.Process, hang_up: bool) -> None:
    """Leaves nothing of this side behind; what ignores its hang-up or the end of its input goes on, on the board."""
    if process.returncode is None:
        if hang_up:
            _hang_up(process)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), _PATIENCE_S)
    if process.returncode is None:
        process.kill()
        await process.wait()
    transport = getattr(process, "_transport", None)
    if transport is not None:  # else a pipe whose reader was given up would warn when it is collected
        transport.close()


@asynccontextmanager
async def listening(board: Board, port: int = 0) -> AsyncIterator[tuple[int, set[Connection]]]:
    """Serves a board on loopback; yields the port and the connections that are open."""
    connections: set[Connection] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(board, reader, writer)
        connections.add(connection)
        try:
            await connection.serve()
        finally:
            connections.discard(connection)

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        server.close()
        while connections:
            for connection in connections:
                connection.writer.transport.abort()
            await asyncio.sleep(0.01)
