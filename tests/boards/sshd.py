"""A real sshd on loopback whose sessions land on an emulated board."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from device_bench.targets.emulated import Board

from .tools import Tools

_TIMEOUT_S = 20.0

_START = """\
set -eu
mount -t tmpfs none /run
mkdir -m 755 /run/sshd
mount --bind "$1" /etc/passwd
shift
exec "$@"
"""

_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowUsers pi
UseDNS no
PermitUserRC no
PrintMotd no
MaxStartups 100
MaxSessions 100
Subsystem sftp /usr/lib/openssh/sftp-server
ForceCommand {folder}/session
"""

_CLIENT = """\
Host {host}
    HostName 127.0.0.1
    Port {port}
    User pi
    IdentityFile "{folder}/user_key"
    IdentitiesOnly yes
    UserKnownHostsFile "{folder}/known_hosts"
    GlobalKnownHostsFile none
"""


@dataclass
class SshServer:
    """A board's sshd.

    Attributes:
        board: its sessions land on.
        host: its name in the configuration.
        folder: of its keys and files.
        tools: where sshd is.
        port: on loopback.
    """

    board: Board
    host: str
    folder: Path
    tools: Tools
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def config(self) -> Path:
        """For ``ssh -F``."""
        return self.folder / "config"

    @property
    def log(self) -> str:
        """What sshd said."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Starts it, or starts it again on the same port."""
        self.port = self.port or free_port()
        words = {"folder": self.folder, "port": self.port, "host": self.host}
        (self.folder / "sshd_config").write_text(_CONFIG.format(**words))
        self.config.write_text(_CLIENT.format(**words))
        # absolute: sshd starts itself anew for each connection
        argv = [str(self.tools.sshd), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        # its own mounts, or the system's accounts would have to change
        argv = ["unshare", "--mount", "bash", "-c", _START, "sshd", str(self.folder / "passwd"), *argv]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "LD_LIBRARY_PATH": self.tools.libraries},
            )
        until = time.monotonic() + _TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"sshd did not start:\n{self.log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it with all connections."""
        if self._process is None:
            return
        # first the listener, or it would take a new one
        sessions = self._connections()
        self._process.kill()
        self._process.wait()
        _signal(sessions, signal.SIGKILL)
        self._process = None

    def drop_connections(self) -> None:
        """Cuts all connections; what runs on the board finds its standard input at an end."""
        _signal(self._connections(), signal.SIGKILL)

    def freeze_connections(self) -> None:
        """Makes all connections silent without ending them, as a board does that loses its power or its network."""
        _signal(self._connections(), signal.SIGSTOP)

    def change_host_key(self) -> None:
        """Gives it another host key, of which ``known_hosts`` knows nothing."""
        self.stop()
        _make_key(self.folder / "host_key")
        self.start()

    def refuse_login(self) -> None:
        """Knows the user's key no longer."""
        (self.folder / "authorized_keys").write_text("")

    def _connections(self) -> list[int]:
        """Returns the processes of sshd that serve connections, and not what they started."""
        assert self._process is not None
        found, asked = [], [self._process.pid]
        while asked:
            for child in _children(asked.pop()):
                with suppress(OSError):
                    if Path(f"/proc/{child}/exe").readlink() == self.tools.sshd:
                        found.append(child)
                        asked.append(child)
        return found

    def _answers(self) -> bool:
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self.port), timeout=1)) as client:
            return client.recv(4) == b"SSH-"
        return False


@contextmanager
def ssh_server(board: Board, tools: Tools, folder: Path, host: str = "board") -> Iterator[SshServer]:
    """Runs an sshd for a board that was started with ``tools.ssh_layer``, which scp and sftp need.

    Args:
        board: where sessions land.
        tools: where sshd is.
        folder: for its keys and files; created.
        host: what the board is called in the configuration.
    """
    folder.mkdir(parents=True)
    _make_key(folder / "host_key")
    _make_key(folder / "user_key")
    (folder / "authorized_keys").write_bytes((folder / "user_key.pub").read_bytes())
    (folder / "passwd").write_text(f"pi:x:0:0::{folder}:/bin/sh\nsshd:x:74:74::/run/sshd:/usr/sbin/nologin\n")
    (folder / "session").write_text(_session(board))
    (folder / "session").chmod(0o755)
    server = SshServer(board, host, folder, tools)
    server.start()
    kind, key, *_ = (folder / "host_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
    try:
        yield server
    finally:
        server.stop()


def _session(board: Board) -> str:
    """Returns the program that each session is: the client's command, or a shell, on the board."""
    # the last word is given by sshd, in the variable it puts the client's command in
    *command, _ = board.argv_of("")
    shell = board.argv([board.account.shell, "-l"])
    return (
        "#!/bin/sh\n"
        f'if [ -n "${{SSH_ORIGINAL_COMMAND+x}}" ]; then exec {shlex.join(command)} "$SSH_ORIGINAL_COMMAND"; fi\n'
        f"exec {shlex.join(shell)}\n"
    )


def _make_key(path: Path) -> None:
    path.unlink(missing_ok=True)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(argv, stdin=subprocess.DEVNULL, check=True)


def free_port() -> int:
    """Returns a port of loopback that nobody listens on now."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _children(number: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    return []


def _signal(numbers: list[int], what: signal.Signals) -> None:
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, what)
