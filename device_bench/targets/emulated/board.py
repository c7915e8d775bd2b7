"""A running emulated board: file system and processes in separate namespaces, which vanish when it ends."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from itertools import count
from pathlib import Path

from device_bench.targets.link import Link
from runtime import MeasurementError

from .base import EMULATOR, PLUGIN, Boards
from .cores import CPUINFO, Core, CoreName, core_named
from .marks import InstructionMark, read_marks
from .steps import last_line

DISK_BYTES = 4 << 30
"""Default size of a board's disk, bytes; it takes memory of this machine only as it fills."""

START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0

# ELF, 64 bits, little-endian, executable or shared object, AArch64; P keeps argv[0], F opens the emulator at once
_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_SEPARATOR = "\x1f"  # the kernel takes the first character of a rule for one, and no path has this
_FIX = "Run `pocketvit doctor`: it names what emulated boards need here"


@dataclass(frozen=True)
class Account:
    """A user that runs commands on a board.

    Attributes:
        name: name of the user.
        number: number of the user and group; 0 may write everywhere.
        home: folder in which commands start.
        path: search path of programs.
        shell: program that runs a line of POSIX shell.
    """

    name: str
    number: int
    home: str
    path: str = "/usr/local/bin:/usr/bin:/bin"
    shell: str = "/bin/sh"


PI = Account("pi", 1000, "/home/pi")
ROOT = Account("root", 0, "/root")


@dataclass(frozen=True)
class Process:
    """A process on a board.

    Attributes:
        number: process number on the board.
        argv: program and arguments, without the emulator.
    """

    number: int
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Counted:
    """The result of a counted program.

    Attributes:
        marks: marks that it made.
        output: standard output.
    """

    marks: tuple[InstructionMark, ...]
    output: str


@dataclass(frozen=True)
class Board:
    """A running board.

    Attributes:
        core: processor of the board.
        boards: base of the board.
        holder: local process whose end ends the board.
        stage: path of the board's file system in that process.
        account: user that runs commands.
    """

    core: Core
    boards: Boards
    holder: int
    stage: Path
    account: Account = PI
    _numbers: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    @property
    def root(self) -> Path:
        """The board's file system, to read and change from this machine while the board runs."""
        return Path(f"/proc/{self.holder}/root{self.stage}/root")

    @property
    def link(self) -> Link:
        """The connection to the board."""
        return Link(label=f"emu:{self.core.name}", argv=self.argv_of, emulated=True)

    def argv_of(self, line: str) -> list[str]:
        """Returns the local command that runs a line of POSIX shell on the board, in the user's home."""
        return self.argv((self.account.shell, "-c", line))

    def argv(self, argv: Sequence[str], variables: Mapping[str, str] | None = None) -> list[str]:
        """Returns the local command that runs a program on the board.

        Args:
            argv: path of the program on the board, and its arguments.
            variables: environment variables in addition to those of the account.
        """
        account = self.account
        environment = {
            "HOME": account.home,
            "USER": account.name,
            "LOGNAME": account.name,
            "SHELL": account.shell,
            "PATH": account.path,
            "LANG": "C.UTF-8",
            "QEMU_CPU": self.core.emulator_cpu,
            **(variables or {}),
        }
        enter = [_program("nsenter"), f"--target={self.holder}", "--user", "--mount", "--pid", "--preserve-credentials"]
        # a second user namespace below the board's: no user of the board may do what the board's maker may
        become = [_program("unshare"), "--user", f"--map-user={account.number}", f"--map-group={account.number}"]
        become += [f"--root={self.stage}/root", f"--wd={account.home}"]
        words = [f"{name}={value}" for name, value in environment.items()]
        return [_program("env"), "-i", *words, *enter, "--", *become, "--", *argv]

    def run(self, line: str, *, input: bytes = b"", timeout_s: float = 60.0) -> subprocess.CompletedProcess[bytes]:
        """Runs a line of POSIX shell on the board to its end and returns its status and output.

        Args:
            line: line of shell.
            input: content of its standard input.
            timeout_s: longest time to wait, s; what it started goes on until the board ends.

        Raises:
            MeasurementError: it does not end in time.
        """
        return self._run(self.argv_of(line), input, timeout_s)

    def counted(
        self, argv: Sequence[str], variables: Mapping[str, str] | None = None, *, timeout_s: float = 600.0
    ) -> Counted:
        """Runs a program on the board and counts its executed instructions.

        The program makes mark ``n`` by closing the descriptor ``424200 + n``. Its children are not counted.

        Args:
            argv: path of the program on the board, and its arguments.
            variables: environment variables in addition to those of the account.
            timeout_s: longest time to wait, s.

        Raises:
            MeasurementError: it fails, does not end in time, or makes no mark.
        """
        out = f"/tmp/pocketvit-counts-{os.getpid()}-{next(self._numbers)}.jsonl"
        emulated = self.argv([f"/{EMULATOR}", "-plugin", f"/{PLUGIN},out={out}", *argv], variables)
        # the same addresses each time, so that code that depends on them counts the same
        fixed = [_program("setarch"), "--addr-no-randomize", *emulated]
        done = self._run(fixed, b"", timeout_s)
        if done.returncode:
            raise MeasurementError(
                f"A counted program failed on emu:{self.core.name}",
                got=f"status {done.returncode}: {last_line(done.stderr) or 'no message'}",
            )
        path = self.root / out.lstrip("/")
        try:
            marks = read_marks(path.read_text(encoding="utf-8") if path.exists() else "")
            return Counted(marks, done.stdout.decode(errors="replace"))
        finally:
            path.unlink(missing_ok=True)

    def processes(self) -> tuple[Process, ...]:
        """Returns the processes on the board; none once it has ended."""
        found = []
        for folder in (self.root / "proc").glob("[0-9]*"):
            if folder.name == "1":
                continue
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
            except OSError:  # it ended meanwhile
                continue
            if words:  # else it has ended and nobody has asked how
                found.append(Process(int(folder.name), _without_emulator([os.fsdecode(word) for word in words])))
        return tuple(sorted(found, key=lambda process: process.number))

    def _run(self, argv: list[str], input: bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(argv, input=input, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            raise MeasurementError(
                f"A program on emu:{self.core.name} did not end", expected=f"an end within {timeout_s:g} s"
            ) from None


def _without_emulator(words: list[str]) -> tuple[str, ...]:
    # by binfmt_misc: the emulator, the program's path, then its own arguments
    return tuple(words[2:] if len(words) > 2 and words[0].endswith(EMULATOR) else words)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MeasurementError(f"An emulated board needs the program {name}, which is not here", fix=_FIX)
    return found


@contextmanager
def open_board(
    boards: Boards,
    core: CoreName,
    *,
    disk_bytes: int = DISK_BYTES,
    engines: bool = True,
    layers: Sequence[Path] = (),
    account: Account = PI,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Board]:
    """Starts a board and yields it; at the end its processes are killed and its files removed.

    Args:
        boards: base of the board.
        core: ``pi4`` (Cortex-A72) or ``pi5`` (Cortex-A76).
        disk_bytes: size of its disk, bytes.
        engines: whether numpy, LiteRT and ONNX Runtime are on it.
        layers: folders whose files cover those of the base, the first on top.
        account: user that runs commands.
        clock: a monotonic clock, s.

    Raises:
        UnsupportedTargetError: there is no such core.
        MeasurementError: this machine cannot run a board.
    """
    kind = core_named(core)
    stage = boards.path / "stage"
    lower = [*layers, boards.core(kind.name), *([boards.engines] if engines else []), boards.userland]
    rule = _SEPARATOR.join(["", "arm64", "M", "", _MAGIC, _MASK, str(boards.userland / EMULATOR), "FP"])
    with as_file(files(__package__).joinpath("enter.sh")) as script:
        argv = [
            _program("unshare"),
            "--user",
            "--map-root-user",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--",
        ]
        argv += [_program("bash"), str(script), str(stage), str(disk_bytes), CPUINFO, rule, *map(str, lower)]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as process:
            try:
                holder = _await_holder(process, kind, clock)
                yield Board(kind, boards, holder, stage, account)
            finally:
                _end(process)


def _await_holder(process: subprocess.Popen[bytes], core: Core, clock: Callable[[], float]) -> int:
    """Waits for the board and returns the number of the process that holds it."""
    assert process.stdout is not None
    until, output = clock() + START_TIMEOUT_S, b""
    while not output.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - clock()))
        more = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not more:
            raise _not_started(process, core)
        output += more
    return int(output.split()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the board and waits until nothing of it is left."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _not_started(process: subprocess.Popen[bytes], core: Core) -> MeasurementError:
    process.kill()
    _, errors = process.communicate()
    return MeasurementError(
        f"The emulated board emu:{core.name} did not start",
        expected="Linux 6.7 or newer, and root or user namespaces",
        got=last_line(errors) or f"no sign of it after {START_TIMEOUT_S:g} s",
        fix=_FIX,
    )
