"""Target ``ssh``: boards over the system's ssh client, with the user's configuration; host keys are checked."""

from __future__ import annotations

import re
import shutil
import threading

from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult
from device_bench.targets.remote.bench import bench_over_link, findings_of
from device_bench.targets.remote.connection import Survey, run_on_device
from runtime import MeasurementError, PocketVitError, Progress, silent

from .base import Device, Target
from .finding import Finding
from .link import Link

CLIENT = "ssh"
CONNECT_S = 15
_SILENT_S, _SILENCES = 10, 3
_STATUS = 255
"""Exit status of ssh when ssh itself fails; any other status is that of the command."""

_MEANINGS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed|No \S+ host key is known",
        "The host key of {label} is not the one that is known, or none is",
        "Make sure that it is the right machine; then connect once by hand: ssh {host}",
    ),
    (
        r"Permission denied|Too many authentication failures|no mutual signature",
        "{label} refused the login",
        "Let a key log in there (ssh-copy-id {host}); no password is ever asked for here. "
        "A key with a passphrase must be in ssh-agent",
    ),
    (
        r"Could not resolve hostname|Name or service not known",
        "Nobody knows a host named {host}",
        "Check the address of {label}, or give it a Host entry in ~/.ssh/config",
    ),
    (
        r"Connection refused",
        "{label} takes no ssh connections",
        "Start its ssh server there: sudo systemctl enable --now ssh",
    ),
    (
        r"timed out|No route to host|Network is unreachable|Host is down",
        "{label} cannot be reached",
        "See whether it is up and in the same network: ping {bare}",
    ),
    (
        r"Bad configuration option|Can't open user config file|terminating, .* bad configuration",
        "The ssh configuration for {label} cannot be read",
        "Mend that file, or name another: ssh_config = … in targets.toml",
    ),
    (
        r"closed by remote host|Connection reset|Broken pipe|not responding|Connection to .* closed|Connection closed",
        "The link to {label} was cut",
        "See whether it is still up, and try again; what ran there ends by itself within a minute, and is removed",
    ),
)


def ssh_link(device: Device, client: str | None = None) -> Link:
    """Returns the connection to a board over ssh.

    Args:
        device: device whose address is ``ssh:HOST`` or ``ssh:USER@HOST``.
        client: path of the ssh program; by default that of the system.

    Raises:
        MeasurementError: there is no ssh on this machine.
    """
    found = client or shutil.which(CLIENT)
    if found is None:
        raise MeasurementError("There is no ssh on this machine", fix="Run: sudo apt install openssh-client")
    config = [] if device.ssh_config is None else ["-F", str(device.ssh_config)]
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": CONNECT_S,
        "ServerAliveInterval": _SILENT_S,
        "ServerAliveCountMax": _SILENCES,
        "ClearAllForwardings": "yes",
        "RequestTTY": "no",
        "RemoteCommand": "none",
        "LogLevel": "INFO",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]

    def argv(line: str) -> list[str]:
        return [found, *config, *flags, "-a", "-x", "--", device.place, line]

    def explain(status: int, output: str) -> PocketVitError | None:
        return explain_ssh(device, status, output)

    return Link(device.label, argv, explain)


def explain_ssh(device: Device, status: int, output: str) -> PocketVitError | None:
    """Returns the error that an exit status of ssh means, or None if the command on the board failed."""
    if status != _STATUS:
        return None
    place = {"label": device.label, "host": device.place, "bare": device.place.rpartition("@")[2]}
    last = (output.strip().splitlines() or ["no message"])[-1][:300]
    for pattern, what, fix in _MEANINGS:
        if re.search(pattern, output):
            return MeasurementError(what.format(**place), got=last, fix=fix.format(**place))
    return MeasurementError(f"ssh to {device.label} failed", got=last, fix=f"Try it by hand: ssh {device.place} true")


def bench_over_ssh(
    device: Device, request: BenchRequest, progress: Progress = silent, *, stop: threading.Event | None = None
) -> BenchResult:
    """Measures the files of ``request`` on a board over ssh.

    Raises:
        PocketVitError: see ``bench_over_link``.
    """
    return bench_over_link(device, ssh_link(device), request, progress, stop=stop)


def check_ssh(device: Device) -> tuple[Finding, ...]:
    """Returns what is there and what is missing on a board; the check leaves nothing behind."""
    surveys: list[Survey] = []
    try:
        run_on_device(ssh_link(device), device.python, surveys.append)
    except PocketVitError as error:
        return (Finding(device.label, "link", None, str(error)),)
    return findings_of(device, surveys[0])


SSH = Target(bench_over_ssh, check_ssh, "Linux boards", {CLIENT: "sudo apt install openssh-client"})
