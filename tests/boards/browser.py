"""The browser that tests run pages in: an installed one, or Debian's, which is fetched once and installed nowhere."""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import cache
from pathlib import Path

from device_bench.targets.emulated.base import boards_folder
from device_bench.targets.emulated.fetch import fetch_debs, unpack_debs
from device_bench.targets.emulated.once import made_once
from device_bench.targets.emulated.steps import Steps
from device_bench.targets.web.browser import BROWSER, find_browser
from device_bench.targets.web.packages import web_packages
from runtime import UnsupportedTargetError

PACKAGE = "chromium-headless-shell"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_START = """#!/bin/sh
root="$(dirname "$0")/root"
export LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu"
exec "$root/usr/lib/chromium/chromium-headless-shell" "$@"
"""


@cache
def browser_for_tests() -> str:
    """Returns the path of a browser, and makes it the one of ``web:chromium``.

    Raises:
        PocketVitError: there is none, and none can be fetched; or there are no JavaScript packages.
    """
    web_packages()
    try:
        return find_browser()
    except UnsupportedTargetError:
        os.environ[BROWSER] = str(fetched_browser())
        return find_browser()


def fetched_browser() -> Path:
    """Returns the program that starts Debian's browser, and fetches it if it is not in the cache (some 90 MB).

    Raises:
        MeasurementError: this machine has no apt of Debian 12, or it fails.
    """
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    folder = made_once(
        boards_folder() / "browser" / key, _make, whole=lambda made: (made / "start").is_file(), waiting=lambda: None
    )
    return folder / "start"


def _make(folder: Path) -> None:
    work, root = folder / "work", folder / "root"
    work.mkdir()
    root.mkdir()
    steps = Steps(making="a browser")
    debs = fetch_debs([PACKAGE], work, steps, architectures=("amd64",))
    unpack_debs([deb for deb in debs if _needed(deb)], root, steps)
    shutil.rmtree(work)
    start = folder / "start"
    start.write_text(_START, encoding="utf-8")
    start.chmod(0o755)


def _needed(deb: Path) -> bool:
    """Whether a package has a part of the browser; the machine's own C library goes with its own loader."""
    return deb.name.endswith("_amd64.deb") and not deb.name.startswith(("libc6_", "libgcc-s1_", "perl", "python"))
