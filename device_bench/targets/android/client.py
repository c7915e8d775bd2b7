"""The system's ``adb`` client: its path, the phones it reaches, and the meaning of its errors."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Protocol

from device_bench.targets.base import Device
from runtime import MeasurementError, PocketVitError, UnsupportedTargetError

QUICK_S = 20.0
"""Longest time of a short command on the phone, s."""

_LOOK_S = 0.2
_DEBUGGING = "see that the phone is on and plugged in, and that USB debugging is on in its developer options"
_STATES = {
    "unauthorized": "unlock the phone and allow USB debugging from this computer in the dialog it shows",
    "authorizing": "unlock the phone and allow USB debugging from this computer in the dialog it shows",
    "offline": "plug the phone in again, or run: adb reconnect offline",
    "connecting": "wait a moment and try again",
    "no permissions": "this computer's user may not use the USB device: install the udev rules for Android "
    "(Debian and Ubuntu: apt install android-sdk-platform-tools-common), and plug the phone in again",
    "recovery": "start the phone's system: adb reboot",
    "sideload": "start the phone's system: adb reboot",
    "rescue": "start the phone's system: adb reboot",
    "bootloader": "start the phone's system: fastboot reboot",
}


@dataclass(frozen=True)
class Done:
    """A program that has ended.

    Attributes:
        status: exit status; if negative, the number of a signal.
        stdout: standard output.
        stderr: standard error.
    """

    status: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """Standard output and standard error."""
        return "\n".join(part for part in (self.stdout.strip(), self.stderr.strip()) if part)


class Running(Protocol):
    """A program that runs in the background."""

    def say(self, line: str) -> bool:
        """Writes a line to its input; returns whether the program still runs."""

    def next_line(self, seconds: float) -> str | None:
        """Returns the next line of its output; None if there is none within ``seconds``, or no more."""

    def end(self, seconds: float) -> Done:
        """Closes its input, and kills it unless it ends within ``seconds``."""


class AdbRunner(Protocol):
    """Finds and starts local programs; tests replace it."""

    def which(self, name: str) -> str | None:
        """Returns the path of a program on the search path, or the given path if it exists."""

    def run(self, argv: Sequence[str], seconds: float) -> Done:
        """Runs a program and waits for its end.

        Raises:
            OSError: the program cannot be started.
            TimeoutError: the program took longer than ``seconds`` and was killed.
            MeasurementError: the bench was stopped.
        """

    def start(self, argv: Sequence[str]) -> Running:
        """Starts a program.

        Raises:
            OSError: the program cannot be started.
        """


@dataclass(frozen=True)
class SystemRunner:
    """Runs local programs.

    Attributes:
        stop: once it is set, programs are killed and none is started.
    """

    stop: threading.Event = field(default_factory=threading.Event)

    def which(self, name: str) -> str | None:
        """Returns the path of a program; see ``AdbRunner``."""
        return shutil.which(name)

    def run(self, argv: Sequence[str], seconds: float) -> Done:
        """Runs a program to its end; see ``AdbRunner``."""
        # files instead of pipes: adb may start its server, which would keep a pipe open forever
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
            try:
                self._wait(process, seconds)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            return Done(process.returncode, _whole(out), _whole(err))

    def start(self, argv: Sequence[str]) -> Running:
        """Starts a program; see ``AdbRunner``."""
        return _Process(argv)

    def _wait(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.stop.is_set():
            try:
                process.wait(_LOOK_S)
                return
            except subprocess.TimeoutExpired:
                if time.monotonic() > until:
                    raise TimeoutError(f"adb took longer than {seconds:g} s") from None
        raise MeasurementError("The bench was stopped")


class _Process:
    def __init__(self, argv: Sequence[str]) -> None:
        # in a new session, so that Ctrl-C only closes its input and it can still clean up
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input = self._process.stdin
        self._lines: list[str] = []
        self._taken, self._over = 0, False
        self._news = threading.Condition()
        threading.Thread(target=self._read, args=(self._process.stdout,), name="adb", daemon=True).start()

    def say(self, line: str) -> bool:
        try:
            self._input.write(f"{line}\n".encode())
            self._input.flush()
        except (OSError, ValueError):
            return False
        return self._process.poll() is None

    def next_line(self, seconds: float) -> str | None:
        with self._news:
            self._news.wait_for(lambda: self._taken < len(self._lines) or self._over, seconds)
            if self._taken == len(self._lines):
                return None
            self._taken += 1
            return self._lines[self._taken - 1]

    def end(self, seconds: float) -> Done:
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with self._news:
            self._news.wait_for(lambda: self._over, 1.0)
            return Done(self._process.returncode, "\n".join(self._lines), "")

    def _read(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                with self._news:
                    self._lines.append(_text(line).rstrip("\r\n"))
                    self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()


@dataclass(frozen=True)
class Adb:
    """One phone, reached by ``adb``.

    Attributes:
        program: path of ``adb``.
        serial: serial number of the phone, as in ``adb devices``.
        label: name of the phone in messages.
        runner: starts local programs.
    """

    program: str
    serial: str
    label: str
    runner: AdbRunner

    def shell(self, line: str, seconds: float = QUICK_S) -> Done:
        """Runs a line of shell on the phone, without input.

        Raises:
            MeasurementError: the phone is disconnected or does not answer in time.
        """
        try:
            return self.call("shell", "-n", "-T", line, seconds=seconds)
        except TimeoutError:
            raise MeasurementError(
                f"{self.label} did not answer within {seconds:g} s", fix=f"For a start, {_DEBUGGING}"
            ) from None

    def text_of(self, line: str) -> str | None:
        """Returns the output of a line of shell on the phone; None if it fails.

        Raises:
            MeasurementError: the phone is disconnected or does not answer in time.
        """
        done = self.shell(line)
        return None if done.status else done.stdout

    def call(self, *arguments: str, seconds: float) -> Done:
        """Runs ``adb`` with ``arguments`` for this phone.

        Raises:
            MeasurementError: the phone is disconnected or does not allow it.
            TimeoutError: it took longer than ``seconds``.
        """
        done = self.runner.run((self.program, "-s", self.serial, *arguments), seconds)
        error = explain_for(self.label)(done.status, done.stderr)
        if error is not None:
            raise error
        return done


def find_adb(runner: AdbRunner, environment: Mapping[str, str] = os.environ) -> str:
    """Returns the path of ``adb``, on the search path or in the folder of Android's tools.

    Args:
        runner: finds local programs.
        environment: environment variables; ``ANDROID_HOME`` and ``ANDROID_SDK_ROOT`` are used.

    Raises:
        UnsupportedTargetError: there is none.
    """
    homes = (environment.get(name) for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"))
    for name in ("adb", *(f"{home}/platform-tools/adb" for home in homes if home)):
        found = runner.which(name)
        if found is not None:
            return found
    raise UnsupportedTargetError(
        "adb is not installed on this machine",
        fix="Install Android's platform tools (Debian and Ubuntu: apt install adb; macOS: brew install "
        "android-platform-tools), and put adb on the PATH",
    )


def connect(device: Device, runner: AdbRunner) -> Adb:
    """Returns the phone with the serial number of ``device``, or the only phone.

    Args:
        device: device whose address begins with ``adb:``.
        runner: starts local programs.

    Raises:
        UnsupportedTargetError: there is no adb, no such phone or more than one, or the phone does not allow it.
    """
    program = find_adb(runner)
    try:
        done = runner.run((program, "devices"), QUICK_S)
    except (OSError, TimeoutError) as error:
        raise UnsupportedTargetError(
            "adb cannot list its phones", got=error, fix="Run: adb kill-server, and then: adb devices"
        ) from None
    if done.status:
        raise UnsupportedTargetError(
            "adb cannot list its phones", got=_last(done.said), fix="Run: adb kill-server, and then: adb devices"
        )
    phones = parse_devices(done.stdout)
    listed = ", ".join(f"{serial} ({state})" for serial, state in phones.items())
    if not phones:
        raise UnsupportedTargetError("adb knows no phone", fix=f"For a start, {_DEBUGGING}; then run: adb devices")
    if not device.place and len(phones) > 1:
        raise UnsupportedTargetError(
            "adb knows more than one phone", expected="one, or adb:SERIAL to say which", got=listed
        )
    serial = device.place or next(iter(phones))
    if serial not in phones:
        raise UnsupportedTargetError(f"adb knows no phone {serial}", got=listed, fix=f"For a start, {_DEBUGGING}")
    if phones[serial] != "device":
        raise _unusable(device.label, phones[serial])
    return Adb(program, serial, device.label, runner)


def parse_devices(text: str) -> dict[str, str]:
    r"""Returns the state of each phone in the output of ``adb devices``, by serial number.

    >>> parse_devices("List of devices attached\nR3CN\tdevice\n192.168.0.7:5555\tunauthorized\n\n")
    {'R3CN': 'device', '192.168.0.7:5555': 'unauthorized'}
    """
    _, _, listed = text.partition("List of devices attached")
    found = re.findall(r"^(\S+)[ \t]+(no permissions|\w+)", listed, re.MULTILINE)
    return dict(found)


def explain_for(label: str) -> Callable[[int, str], PocketVitError | None]:
    """Returns a function that explains a failure of ``adb`` by its exit status and stderr.

    Args:
        label: name of the phone in messages.
    """

    def explain(status: int, said: str) -> PocketVitError | None:
        if status == 0:
            return None
        lines = [found.group(1) for found in re.finditer(r"^(?:adb|error): (?:error: )?(.+)$", said, re.MULTILINE)]
        return next((error for line in lines if (error := _meaning(label, line.strip())) is not None), None)

    return explain


def _meaning(label: str, line: str) -> PocketVitError | None:
    """Returns the error for a line of stderr; None if the line is not an error of adb about the phone."""
    if re.match(r"no devices(?:/emulators)? found|device '.*' not found|device not found|closed$", line):
        return MeasurementError(f"{label} is not connected to adb, or is not any more", got=line, fix=_cap(_DEBUGGING))
    if line.startswith("more than one device"):
        return UnsupportedTargetError("adb knows more than one phone", fix="Name it: adb:SERIAL, as adb devices lists")
    state = re.match(r"device (?:still )?(unauthorized|offline|authorizing|connecting)", line)
    if state:
        gone = state.group(1) in ("offline", "connecting")
        return _unusable(label, state.group(1), MeasurementError if gone else UnsupportedTargetError)
    if line.startswith(("insufficient permissions for device", "device has no permissions")):
        return _unusable(label, "no permissions")
    if "doesn't support PTY args" in line or "doesn't support shell_v2" in line:
        return UnsupportedTargetError(f"The Android of {label} is too old", expected="Android 7 or newer")
    if re.match(r"(?:failed to check server version|cannot connect to daemon|failed to start daemon)", line):
        return UnsupportedTargetError("adb's server cannot be reached", got=line, fix="Run: adb kill-server")
    return None


def _unusable(
    label: str, state: str, kind: type[MeasurementError | UnsupportedTargetError] = UnsupportedTargetError
) -> PocketVitError:
    return kind(f"{label} is not ready for adb", got=state, fix=_cap(_STATES.get(state, _DEBUGGING)))


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]


def _last(said: str) -> str:
    return (said.splitlines() or ["no message"])[-1][:300]


def _whole(file: IO[bytes]) -> str:
    file.seek(0)
    return _text(file.read())


def _text(said: bytes) -> str:
    return said.decode("utf-8", "replace")
