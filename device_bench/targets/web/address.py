"""The address of a bench, in words and as a QR code for a terminal."""

from __future__ import annotations

import socket
from importlib import import_module

from device_bench.documents.request import WebOptions

_BORDER = 2
_BLOCKS = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}
"""A character for two modules, the upper and the lower; light ones are drawn, since most terminals are dark."""


def lan_address() -> str | None:
    """Returns the address of this machine in its network, or None where it has none.

    No packet is sent: the system only says from where it would send one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address that is reserved for examples
            own = str(probe.getsockname()[0])
        except OSError:
            return None
    return None if own.startswith(("0.", "127.")) else own


def qr_code(text: str) -> str | None:
    """Returns a QR code as lines of half blocks, or None where ``segno`` is not installed."""
    try:
        segno = import_module("segno")
    except ImportError:
        return None
    rows = [[bool(module) for module in row] for row in segno.make(text, error="l", micro=False).matrix]
    size = len(rows) + 2 * _BORDER
    dark = [[False] * size for _ in range(size + size % 2)]
    for y, row in enumerate(rows, _BORDER):
        dark[y][_BORDER : _BORDER + len(row)] = row
    lines = zip(dark[::2], dark[1::2], strict=True)
    return "\n".join("".join(_BLOCKS[pair] for pair in zip(upper, lower, strict=True)) for upper, lower in lines)


def invitation(options: WebOptions, host: str, port: int, token: str) -> str:
    """Returns what the user reads: the address, its QR code, and what it gives a phone.

    Args:
        options: how the bench is served.
        host: name or address of this machine for others.
        port: the port of the server.
        token: the secret of the address.
    """
    scheme = "https" if options.https else "http"
    address = f"{scheme}://{host}:{port}/{token}/"
    code = qr_code(address)
    lines = [
        f"Open this address on {options.devices} device{'' if options.devices == 1 else 's'}: {address}",
        code or "(pip install 'pocketvit[web]' prints a QR code of it, too.)",
    ]
    if options.https:
        lines.append("The certificate is this bench's own, so the browser warns of it: let it go on.")
    else:
        lines.append(
            "Over plain http a phone computes with one thread of WebAssembly. Threads and WebGPU need --web-https, or "
            f"`adb reverse tcp:{port} tcp:{port}` and http://localhost:{port}/{token}/ on the phone."
        )
    lines.append("Ctrl-C ends the bench and keeps what came.")
    return "\n".join(lines)
