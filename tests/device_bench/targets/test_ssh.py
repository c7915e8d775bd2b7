from pathlib import Path

import pytest

from device_bench.targets.base import Device
from device_bench.targets.ssh import explain_ssh, ssh_link
from runtime import MeasurementError, UnsupportedTargetError

BOARD = Device("ssh:pi@board.local", name="kitchen")


def test_the_user_s_own_ssh_is_asked_with_nothing_left_to_chance():
    link = ssh_link(Device("ssh:pi@board", ssh_config=Path("/a b/config")), client="/usr/bin/ssh")
    argv = link.argv("echo $HOME")
    assert argv[:3] == ["/usr/bin/ssh", "-F", "/a b/config"]
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ClearAllForwardings=yes"} <= set(argv)
    assert argv[-3:] == ["--", "pi@board", "echo $HOME"]
    assert not link.emulated


@pytest.mark.parametrize(
    ("said", "what", "fix"),
    [
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "host key", "by hand"),
        ("No ED25519 host key is known for board.local\nHost key verification failed.", "host key", "by hand"),
        ("pi@board.local: Permission denied (publickey).", "refused the login", "ssh-copy-id pi@board.local"),
        (
            "ssh: Could not resolve hostname board.local: Name or service not known",
            "Nobody knows",
            "address of kitchen",
        ),
        ("ssh: connect to host board.local port 22: Connection refused", "no ssh connections", "enable --now ssh"),
        ("ssh: connect to host board.local port 22: Connection timed out", "cannot be reached", "ping board.local"),
        ("ssh: connect to host board.local port 22: No route to host", "cannot be reached", "ping board.local"),
        ("/x: line 3: Bad configuration option: hostt", "configuration for kitchen", "ssh_config"),
        ("client_loop: send disconnect: Broken pipe", "was cut", "ends by itself"),
        ("Timeout, server board.local not responding.", "was cut", "ends by itself"),
        ("something new", "ssh to kitchen failed", "ssh pi@board.local true"),
        ("", "ssh to kitchen failed", "no message"),
    ],
)
def test_what_ssh_says_becomes_what_to_do(said, what, fix):
    error = explain_ssh(BOARD, 255, said)
    assert isinstance(error, MeasurementError)
    assert what in str(error)
    assert fix in str(error)


@pytest.mark.parametrize("status", [0, 1, 127, 254])
def test_an_ending_of_the_board_s_command_is_not_ssh_s(status):
    assert explain_ssh(BOARD, status, "Permission denied") is None


@pytest.mark.parametrize(
    "place",
    [
        "-oProxyCommand=touch hit",
        "a b",
        "$(touch hit)",
        "`touch hit`",
        "a;b",
        "a\nb",
        "a'b",
        'a"b',
        "a|b",
        "a>b",
        "a\0b",
        "ü",
    ],
)
def test_a_host_that_is_more_than_a_name_is_refused(place):
    with pytest.raises(UnsupportedTargetError, match="characters that no host or serial number has"):
        Device(f"ssh:{place}")


@pytest.mark.parametrize("address", ["", "ssh", "ssh:", "ftp:host", "cpu:0", "emu:", "pi@host"])
def test_an_address_that_cannot_be_read_is_refused(address):
    with pytest.raises(UnsupportedTargetError, match="address of a device cannot be read"):
        Device(address)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"threads": 0}, "threads of cpu must be at least 1"),
        ({"python": "a\nb"}, "is no program"),
        ({"python": ""}, "is no program"),
        ({"cpu_family": "pi9"}, "cpu_family of cpu is not known"),
        (
            {"backends": ("dsp",)},
            "backends of cpu are not known. Expected cpu, gpu, npu, of which npu is Android's NNAPI",
        ),
        ({"backends": ()}, "backends of cpu are not known"),
        ({"benchmark_model_sha256": "12"}, "is no sha256"),
        ({"name": "a/b"}, "goes into file names"),
        ({"name": "-a"}, "goes into file names"),
    ],
)
def test_a_device_that_cannot_be_is_refused(fields, said):
    with pytest.raises(UnsupportedTargetError, match=said):
        Device("cpu", **fields)
