"""The bench as a whole, without a browser: when it ends, what Ctrl-C keeps, and with which code the command ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from device_bench.documents.results import BENCH_DOCUMENT
from device_bench.targets.base import Device
from device_bench.targets.bench import bench
from device_bench.targets.fleet import bench_fleet
from device_bench.targets.web import target as target_module
from device_bench.targets.web.gather import Gathering
from device_bench.targets.web.offer import RANDOM_IMAGES, offer_files
from device_bench.targets.web.packages import packages_folder, served_packages
from device_bench.targets.web.target import RunningBench, bench_in_browsers
from runtime import MeasurementError, UnsupportedTargetError, dumps
from tests.pocketvit.conftest import command, environment

from .pages import FLOAT, IMAGES, ONNX, WHOLE, FakePage, offered, web_request

FULL = WHOLE / "artifacts" / "whole.int8-full.tflite"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with files in place of the JavaScript packages, which no test here runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = packages_folder()
    for name in served_packages():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return tmp_path / "cache"


@pytest.fixture
def running(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[Gathering]:
    """The gatherings of benches that run in this process."""
    found: list[Gathering] = []
    serve = target_module.serve_bench

    def watched(*arguments: Any, **more: Any) -> Any:
        context = serve(*arguments, **more)
        enter = context.__enter__

        class Watched:
            def __enter__(self) -> RunningBench:
                own = enter()
                found.append(own.gathering)
                return own

            def __exit__(self, *error: Any) -> Any:
                return context.__exit__(*error)

        return Watched()

    monkeypatch.setattr(target_module, "serve_bench", watched)
    return found


def come(running: list[Gathering], number: int, files: int = 2, finish: bool = True) -> None:
    """Waits for a bench, and does so many files as a page would."""
    while not running:
        time.sleep(0.01)
    page = FakePage(running[0], number)
    page.hello()
    for file in range(files):
        page.measure(file, 0.01 * number)
    if finish:
        page.send("sign", finished=True)


def test_it_waits_for_as_many_devices_as_were_asked_for(running: list[Gathering]) -> None:
    from device_bench.documents.request import WebOptions

    threads = [threading.Thread(target=come, args=(running, number)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    lines: list[tuple[Any, ...]] = []
    request = web_request(web=WebOptions(devices=2, host="192.0.2.7"))
    results = bench_in_browsers(Device("web"), request, lambda *told: lines.append(told))
    assert [len(result.files) for result in results] == [2, 2]
    assert any("on 2 devices: http://192.0.2.7:" in str(line) for line in lines)


def test_it_ends_when_nobody_gives_a_sign(running: list[Gathering]) -> None:
    thread = threading.Thread(target=come, args=(running, 1, 1, False))
    thread.start()
    (result,) = bench_in_browsers(Device("web"), web_request(timeout_s=1.0))
    assert [file.file for file in result.files] == [FLOAT.name]
    assert [failure.file for failure in result.failures] == [ONNX.name]
    thread.join()
    with pytest.raises(MeasurementError, match="Nothing came to web"):
        bench([FLOAT], "web", timeout_s=0.3)


def test_ctrl_c_keeps_what_came(running: list[Gathering]) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        come(running, 1, 1, False)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    fleet = bench_fleet([Device("web")], web_request())
    thread.join()
    assert [file.file for file in fleet.results[0].files] == [FLOAT.name]
    assert fleet.failures == ()


def ended(cache: Path, *words: object, interrupt: bool = False, files: int = 0) -> tuple[int, str]:
    """Runs the command, lets a page do so many files, and returns how it ended and what it said."""
    line = command("bench", FLOAT, ONNX, "--target", "web", "--web-host", "127.0.0.1", *words)
    env = {**environment(), "XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while not (found := re.search(r"(http://127\.0\.0\.1:\d+/[\w-]+/)", said)):
            said += (own := process.stderr.readline())
            assert own, said
        if files:
            page = FakePage(OverHttp(found.group(1)), 1)  # type: ignore[arg-type]
            page.hello()
            for file in range(files):
                page.measure(file, 0.01)
        if interrupt:
            process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        return process.returncode, said + rest


class OverHttp:
    """Takes messages by sending them to a server."""

    def __init__(self, address: str) -> None:
        self.address, self.files = urlsplit(address), offered()

    def take(self, message: Any) -> dict[str, Any]:
        from device_bench.targets.web.messages import MESSAGES
        from runtime import encode

        kind = next(name for name, own in MESSAGES.items() if type(message) is own)
        connection = http.client.HTTPConnection(self.address.netloc, timeout=30)
        connection.request("POST", f"{self.address.path}{kind}", dumps(encode(message)).encode())
        answer = connection.getresponse()
        body: dict[str, Any] = json.loads(answer.read())
        connection.close()
        assert answer.status == 200, body
        return body


@pytest.mark.slow
def test_the_command_keeps_what_came_before_ctrl_c_and_ends_with_1_where_nothing_came(
    cache: Path, tmp_path: Path
) -> None:
    code, said = ended(cache, "--json", tmp_path / "kept", interrupt=True, files=2)
    assert code == 0, said
    result = BENCH_DOCUMENT.read(tmp_path / "kept" / "web-pixel-8-chrome-wasm.json")
    assert [file.file for file in result.files] == [FLOAT.name, ONNX.name]
    code, said = ended(cache, interrupt=True)
    assert code == 1, said
    assert "No device opened the page" in said
    assert "Traceback" not in said


def test_what_no_browser_runs_is_a_failure_and_pictures_are_random_without_labelled_ones() -> None:
    files, failures = offer_files(web_request(FLOAT, FULL))
    assert [file.name for file in files] == [FLOAT.name]
    assert "LiteRT.js does not take the input" in failures[0].what
    assert len(files[0].pictures) == RANDOM_IMAGES
    assert files[0].labels is None
    labelled, _ = offer_files(web_request(ONNX, images=IMAGES))
    assert labelled[0].labels is not None
    assert len(labelled[0].pictures) == len(labelled[0].labels) == 359
    with pytest.raises(UnsupportedTargetError, match="No file can run in a browser"):
        offer_files(web_request(FULL))


def test_a_check_names_what_is_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETVIT_BROWSER", "no-such-browser")
    found = {one.name: one.value for one in Device("web:chromium").target.check(Device("web:chromium"))}
    assert found["JavaScript packages"] == str(packages_folder())
    assert found["browser"] is None
    assert {one.name for one in Device("web").target.check(Device("web"))} == {
        "JavaScript packages",
        "address",
        "QR code",
    }


def test_the_port_can_be_chosen_and_a_taken_one_is_refused(cache: Path) -> None:
    from dataclasses import replace

    from device_bench.documents.request import WebOptions
    from device_bench.targets.web.target import serve_bench

    with serve_bench(web_request(), offered(), cache, local=True) as own:
        request = replace(web_request(), web=WebOptions(port=own.server.port))
        with pytest.raises(MeasurementError, match="--web-port"), serve_bench(request, offered(), cache, local=True):
            os.abort()
