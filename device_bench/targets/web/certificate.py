"""A self-signed certificate for one bench, made by the system's openssl."""

from __future__ import annotations

import ipaddress
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

from runtime import MeasurementError, UnsupportedTargetError

OPENSSL = "openssl"
_DAYS = 7


def self_signed_context(host: str) -> ssl.SSLContext:
    """Returns the settings of a server with a new certificate, whose key is on no disk afterwards.

    Args:
        host: name or address that browsers ask for.

    Raises:
        UnsupportedTargetError: there is no openssl.
        MeasurementError: openssl fails.
    """
    program = shutil.which(OPENSSL)
    if program is None:
        raise UnsupportedTargetError("A certificate needs openssl, and there is none", fix="sudo apt install openssl")
    names = ",".join(dict.fromkeys((_subject(host), "DNS:localhost", "IP:127.0.0.1")))
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder, "key.pem"), Path(folder, "certificate.pem")
        command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", str(key), "-out", str(certificate), "-days", str(_DAYS), "-subj", "/CN=PocketViT bench"]
        done = subprocess.run(
            [*command, "-addext", f"subjectAltName={names}"], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise MeasurementError(
                "openssl made no certificate", got=(done.stderr.strip().splitlines() or ["nothing"])[-1]
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
    return context


def _subject(host: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"
