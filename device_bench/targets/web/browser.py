"""The browser of this machine, run without a window on the page of a bench."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from runtime import MeasurementError, UnsupportedTargetError

BROWSER = "POCKETVIT_BROWSER"
"""Environment variable that names a browser of Chromium's kind."""

BROWSER_ARGS = "POCKETVIT_BROWSER_ARGS"
"""Environment variable with further arguments for it."""

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_FIX = f"Install Chromium: sudo apt install chromium; or name a browser of its kind in {BROWSER}"
_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
_FLAGS = (
    "--headless=new",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-renderer-backgrounding",
    "--disable-sync",
    "--enable-unsafe-webgpu",
    "--ignore-certificate-errors",
    "--mute-audio",
)


def find_browser(environ: Mapping[str, str] = os.environ) -> str:
    """Returns the path of the browser.

    Args:
        environ: environment variables.

    Raises:
        UnsupportedTargetError: there is none.
    """
    chosen = environ.get(BROWSER)
    names = (chosen,) if chosen else PROGRAMS
    for name in names:
        if found := shutil.which(name, path=environ.get("PATH")):
            return found
    if not chosen and _MAC.is_file():
        return str(_MAC)
    raise UnsupportedTargetError(
        "There is no browser for web:chromium on this machine", expected=" or ".join(names), fix=BROWSER_FIX
    )


@contextmanager
def open_browser(address: str, environ: Mapping[str, str] = os.environ) -> Iterator[Callable[[], str | None]]:
    """Runs the browser on a page for as long as the block lasts, with a profile of its own that is removed.

    Yields:
        A function that returns None while the browser runs, and what it said once it has ended.

    Raises:
        UnsupportedTargetError: there is no browser.
        MeasurementError: it cannot be started.
    """
    program = find_browser(environ)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder, "log")
        command = [program, *_FLAGS, *_sandbox(), f"--user-data-dir={folder}/profile"]
        command += [*shlex.split(environ.get(BROWSER_ARGS, "")), address]
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=folder
                )
            except OSError as error:
                raise MeasurementError(f"The browser {program} cannot be started", got=error) from error
        try:
            yield lambda: None if process.poll() is None else _last_words(log)
        finally:
            _end(process)


def _sandbox() -> tuple[str, ...]:
    """Returns the argument without which Chromium refuses to run as root, as in a container."""
    return ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the browser with all its processes at once; its profile is removed, so there is nothing to save."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
