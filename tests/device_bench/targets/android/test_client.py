from __future__ import annotations

import sys
import threading
import time

import pytest

from device_bench.targets.android.client import SystemRunner, connect, explain_for, find_adb, parse_devices
from device_bench.targets.base import Device
from runtime import MeasurementError, UnsupportedTargetError

from .phone import SERIAL, Phone

LISTED = "List of devices attached\n"


def python(code: str) -> list[str]:
    return [sys.executable, "-P", "-u", "-c", code]


@pytest.mark.parametrize(
    ("listed", "address", "what"),
    [
        ("", "adb:", r"adb knows no phone\. For a start"),
        ("A1\tdevice\nB2\tdevice\n", "adb:", r"more than one phone.*A1 \(device\), B2 \(device\)"),
        ("A1\tdevice\nB2\toffline\n", "adb:", r"more than one phone.*B2 \(offline\)"),
        ("A1\tdevice\n", "adb:B2", r"knows no phone B2\. Got A1 \(device\)"),
        ("A1\tunauthorized\n", "adb:", r"not ready for adb\. Got unauthorized\. Unlock the phone"),
        ("A1\toffline\n", "adb:A1", r"Got offline\. Plug the phone in again"),
        (
            "A1\tno permissions (user in plugdev group; are your udev rules wrong?); see [x]\n",
            "adb:",
            r"Got no permissions\..*udev rules",
        ),
        ("A1\tbootloader\n", "adb:", r"fastboot reboot"),
        ("A1\tsomething\n", "adb:", r"Got something\. See that the phone is on"),
    ],
)
def test_a_phone_that_cannot_be_used_is_said_with_the_cure(listed: str, address: str, what: str) -> None:
    with pytest.raises(UnsupportedTargetError, match=what):
        connect(Device(address), Phone(devices=LISTED + listed))


def test_the_only_phone_or_the_one_that_is_named_is_taken() -> None:
    assert connect(Device("adb:"), Phone()).serial == SERIAL
    two = Phone(devices=f"* daemon not running; starting now at tcp:5037\n{LISTED}A1\tdevice\n{SERIAL}\tdevice\n")
    assert connect(Device(f"adb:{SERIAL}"), two).serial == SERIAL
    long = "List of devices attached\nR3                     device usb:1-2 product:x model:Y device:z\n"
    assert parse_devices(long) == {"R3": "device"}
    assert parse_devices("nothing of the kind") == {}


def test_adb_is_found_where_android_puts_it() -> None:
    class Only(Phone):
        def which(self, name: str) -> str | None:
            return name if name == "/sdk/platform-tools/adb" else None

    assert find_adb(Phone(), {}) == "/usr/bin/adb"
    assert find_adb(Only(), {"ANDROID_SDK_ROOT": "/sdk", "ANDROID_HOME": "/none"}) == "/sdk/platform-tools/adb"
    with pytest.raises(UnsupportedTargetError, match=r"adb is not installed.*apt install adb"):
        find_adb(Only(), {})


@pytest.mark.parametrize(
    ("said", "kind", "what"),
    [
        ("error: no devices/emulators found", MeasurementError, "not connected"),
        ("adb: no devices/emulators found", MeasurementError, "not connected"),
        ("error: device 'R3' not found", MeasurementError, "not connected"),
        ("adb: device 'R3' not found", MeasurementError, "not connected"),
        ("error: closed", MeasurementError, "not connected"),
        ("error: device offline", MeasurementError, "Got offline"),
        ("adb: error: device offline", MeasurementError, "Got offline"),
        (
            "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\n",
            UnsupportedTargetError,
            "allow USB debugging",
        ),
        ("error: device still authorizing", UnsupportedTargetError, "allow USB debugging"),
        ("error: more than one device/emulator", UnsupportedTargetError, "Name it: adb:SERIAL"),
        ("error: insufficient permissions for device: x", UnsupportedTargetError, "udev rules"),
        ("error: target doesn't support PTY args -Tt", UnsupportedTargetError, "Android 7 or newer"),
        (
            "* daemon not running; starting now at tcp:5037\nadb: failed to check server version: cannot connect",
            UnsupportedTargetError,
            "adb kill-server",
        ),
    ],
)
def test_what_adb_complains_of_is_explained(said: str, kind: type[Exception], what: str) -> None:
    error = explain_for("pixel")(1, said)
    assert type(error) is kind
    assert what in str(error)
    assert explain_for("pixel")(0, said) is None


@pytest.mark.parametrize(
    "said", ["", "ERROR: Failed to load model", "adb: error: failed to copy 'a' to 'b': No space left on device"]
)
def test_what_is_not_adbs_own_is_not_explained(said: str) -> None:
    assert explain_for("pixel")(1, said) is None


def test_a_program_is_run_to_its_end() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    done = SystemRunner().run(python(code), 30)
    assert (done.status, done.stdout, done.stderr, done.said) == (3, "out\n", "err\n", "out\nerr")
    done = SystemRunner().run(python("import sys; sys.stdout.buffer.write(b'\\xff' * 300000)"), 30)
    assert len(done.stdout) == 300000


def test_a_program_that_takes_too_long_or_is_stopped_is_killed() -> None:
    sleeping = python("import time; time.sleep(600)")
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="took longer"):
        SystemRunner().run(sleeping, 0.3)
    runner = SystemRunner(threading.Event())
    runner.stop.set()
    with pytest.raises(MeasurementError, match="stopped"):
        runner.run(sleeping, 600)
    assert time.monotonic() - start < 300


def test_a_program_that_runs_on_is_talked_to_and_ended() -> None:
    echo = "import sys\nfor line in sys.stdin: print('heard', line.strip())\nprint('bye')"
    process = SystemRunner().start(python(echo))
    assert process.say("you")
    assert process.next_line(30) == "heard you"
    assert process.next_line(0.05) is None
    done = process.end(30)
    assert (done.status, done.stdout) == (0, "heard you\nbye")
    assert not process.say("again")
    assert process.next_line(1) == "bye"
    assert process.next_line(1) is None
    stubborn = SystemRunner().start(python("import time; print('here', flush=True); time.sleep(600)"))
    assert stubborn.next_line(30) == "here"
    assert stubborn.end(0.2).status < 0
