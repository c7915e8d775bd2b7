"""Targets ``web`` and ``web:chromium``: whoever opens the page of a bench, and the browser of this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from device_bench.documents.request import BenchRequest, WebOptions
from device_bench.documents.results import BenchResult
from device_bench.targets.base import Device, Target
from device_bench.targets.finding import Finding
from runtime import MeasurementError, PocketVitError, Progress, UnsupportedTargetError, encode, silent

from .address import invitation, lan_address, qr_code
from .browser import BROWSER_FIX, find_browser, open_browser
from .certificate import self_signed_context
from .gather import Gathering, new_token
from .offer import OfferedFile, offer_files
from .packages import NPM, NPM_FIX, find_npm, packages_folder, served_packages, web_packages
from .results import web_results
from .server import PICTURES_AT_ONCE, BenchServer, Site

LOCAL = "chromium"
STAGE = "browsers"
_LOOK_S = 0.2


@dataclass(frozen=True)
class RunningBench:
    """A bench that is being served.

    Attributes:
        server: the server.
        gathering: what came so far.
        address: the address of the page.
    """

    server: BenchServer
    gathering: Gathering
    address: str


@contextmanager
def serve_bench(
    request: BenchRequest,
    files: tuple[OfferedFile, ...],
    packages: Path,
    *,
    local: bool = False,
    heard: Callable[[str], None] = lambda line: None,
) -> Iterator[RunningBench]:
    """Serves the page of a bench for as long as the block lasts.

    Args:
        request: what to measure; its ``web`` says how to serve.
        files: the offered files.
        packages: the folder of ``web_packages``.
        local: whether only this machine may come.
        heard: called with a line when a page comes and when a file is done.

    Raises:
        MeasurementError: the port is taken, or there is no certificate.
        UnsupportedTargetError: https is asked for and there is no openssl.
    """
    options = request.web
    host = options.host or ("localhost" if local else lan_address() or "localhost")
    gathering = Gathering(files, request.sampling, heard=heard)
    token = new_token()
    site = Site(token, gathering, page_job(request, files), packages)
    context = self_signed_context(host) if options.https else None
    server = BenchServer("127.0.0.1" if local else "0.0.0.0", options.port, site, context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        scheme = "https" if options.https else "http"
        yield RunningBench(server, gathering, f"{scheme}://{host}:{server.port}/{token}/")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def page_job(request: BenchRequest, files: tuple[OfferedFile, ...]) -> dict[str, Any]:
    """Returns what a page is asked to do, as JSON."""
    return {
        "files": [file.job() for file in files],
        "sampling": encode(request.sampling),
        "threads": request.threads,
        "pictures_at_once": PICTURES_AT_ONCE,
        "silence_s": request.timeout_s,
    }


def bench_in_browsers(
    device: Device, request: BenchRequest, progress: Progress = silent, *, stop: threading.Event | None = None
) -> tuple[BenchResult, ...]:
    """Measures files in the browsers that open the page, until as many devices are done as were asked for.

    It ends earlier when no page gives a sign for ``request.timeout_s``, when it is stopped, and on Ctrl-C; what came
    until then is kept.

    Args:
        device: ``web``, or ``web:chromium`` for the browser of this machine.
        request: what to measure of which files.
        progress: reports the files that are done.
        stop: once it is set, the bench ends.

    Returns:
        A result for each page and backend; none where no page came.

    Raises:
        PocketVitError: no file can be offered, the page cannot be served, or there is no browser for it here.
    """
    stop = stop or threading.Event()
    local = device.place == LOCAL
    if device.place not in ("", LOCAL):
        raise UnsupportedTargetError(
            "There is no such browser to start", expected=f"web, or web:{LOCAL}", got=repr(device.address)
        )
    if local:
        find_browser()
    files, failures = offer_files(request, progress)
    packages = web_packages(progress)

    def heard(line: str) -> None:
        progress(STAGE, 0, 0, line)

    with serve_bench(request, files, packages, local=local, heard=heard) as bench, ExitStack() as browsers:
        try:
            watches: list[Callable[[], str | None]] = []
            if local:
                for _ in range(request.web.devices):
                    watches.append(browsers.enter_context(open_browser(f"{bench.address}?name={LOCAL}")))
            else:
                host, port = bench.address.split("/")[2].rpartition(":")[0], bench.server.port
                heard(invitation(request.web, host, port, bench.server.site.token))
            _wait(bench.gathering, request, progress, stop, watches)
        except KeyboardInterrupt:
            stop.set()  # for whatever else would be measured after this
        found = web_results(bench.gathering, request, failures)
    return found


def _wait(
    gathering: Gathering,
    request: BenchRequest,
    progress: Progress,
    stop: threading.Event,
    watches: list[Callable[[], str | None]],
) -> None:
    """Waits until all devices are done, none gives a sign, or the bench is stopped.

    Raises:
        MeasurementError: a browser that was started here has ended by itself.
    """
    told: tuple[int, int, str] | None = None
    while not stop.wait(_LOOK_S):
        now = gathering.progress()
        if now != told:
            told = now
            waiting = f"waiting for {_devices(request.web)}"
            progress(STAGE, now[0], max(now[1], now[0] + 1), now[2] or waiting)
        finished, working, silence_s = gathering.counts(request.timeout_s)
        if (finished >= request.web.devices and not working) or silence_s >= request.timeout_s:
            break
        for watch in watches:
            if (words := watch()) is not None:
                raise MeasurementError("The browser ended by itself", got=words, fix=BROWSER_FIX)
    done, every, _ = gathering.progress()
    progress(STAGE, max(done, 1), max(every, 1), "the bench has ended")


def _devices(options: WebOptions) -> str:
    return "a device" if options.devices == 1 else f"{options.devices} devices"


def check_web(device: Device) -> tuple[Finding, ...]:
    """Returns what is there and what is missing to measure in browsers; nothing is fetched or started."""
    label, folder = device.label, packages_folder()
    kept = all((folder / path).is_file() for path in served_packages())
    value = str(folder) if kept else "fetched on first use" if find_npm() else None
    found = [Finding(label, "JavaScript packages", value, NPM_FIX)]
    if device.place == LOCAL:
        try:
            return (*found, Finding(label, "browser", find_browser()))
        except PocketVitError:
            return (*found, Finding(label, "browser", None, BROWSER_FIX))
    network = lan_address()
    found.append(Finding(label, "address", network, "This machine is in no network that a phone could join"))
    return (*found, Finding(label, "QR code", "segno" if qr_code("a") else "none: pip install 'pocketvit[web]'"))


WEB = Target(bench_in_browsers, check_web, "phones and computers that open a page", {NPM: NPM_FIX}, gathers=True)
LOCAL_BROWSER = replace(WEB, title="the browser of this machine", programs={}, local=True)
