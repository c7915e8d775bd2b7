"""Files in a real browser: the answers of this machine's CPU by both engines, and what a page does with trouble."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium_pipe import Pipe, piped_browser

from device_bench.documents.measurement import Sampling
from device_bench.documents.results import BENCH_DOCUMENT, BenchResult
from device_bench.metrics.accuracy import accuracy_of, read_test_images
from device_bench.metrics.chosen_images import choose_images
from device_bench.targets.web.messages import PageOutputs
from device_bench.targets.web.offer import offer_files
from device_bench.targets.web.packages import web_packages
from device_bench.targets.web.results import web_results
from device_bench.targets.web.target import RunningBench, serve_bench
from runtime import load, manifest_path
from tests.pocketvit.conftest import command, environment

from .pages import FLOAT, IMAGES, INTEGER, ONNX, offered, web_request, wrong_copy

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ENDED = "/^(Done|The bench|This page)/.test(document.getElementById('headline').textContent)"


@pytest.fixture(scope="module")
def tab() -> Iterator[Pipe]:
    with piped_browser() as pipe:
        pipe("Page.enable")
        yield pipe


def seen(tab: Pipe, bench: RunningBench, query: str = "?name=phone") -> str:
    """Opens the page of a bench and returns what it shows at its end."""
    tab("Page.navigate", url=bench.address + query)
    tab.wait_for(ENDED, 120)
    return str(tab.evaluate("document.body.innerText"))


def test_three_files_give_the_answers_of_the_cpu_for_fifty_pictures(tmp_path: Path) -> None:
    words = ["--target", "web:chromium", "--images", IMAGES, "--accuracy", 50, "--samples", 10, "--json", tmp_path]
    line = command("bench", FLOAT, INTEGER, ONNX, *words)
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result: BenchResult = BENCH_DOCUMENT.read(tmp_path / "web-chromium-wasm.json")
    assert [file.engine for file in result.files] == ["LiteRT.js wasm", "LiteRT.js wasm", "onnxruntime-web wasm"]
    images = choose_images(read_test_images(IMAGES), 50)
    for path, file in zip((FLOAT, INTEGER, ONNX), result.files, strict=True):
        assert file.accuracy is not None
        assert file.accuracy.answers == accuracy_of(load(path), images).answers, file.file
        assert file.latency is not None
        assert len(file.latency.values) == 10
    assert "50 of 50" in done.stdout


def test_a_tampered_file_is_not_run_and_wrong_answers_are_said_loudly(tab: Pipe, tmp_path: Path) -> None:
    for source in (FLOAT, ONNX):
        shutil.copy(source, tmp_path)
        shutil.copy(manifest_path(source), tmp_path)
    request = web_request(tmp_path / FLOAT.name, INTEGER, tmp_path / ONNX.name)
    files, _ = offer_files(request)
    files = (files[0], wrong_copy(files[1]), files[2])
    changed = bytearray(FLOAT.read_bytes())
    changed[-1] ^= 1
    (tmp_path / FLOAT.name).write_bytes(changed)
    (tmp_path / ONNX.name).write_bytes(ONNX.read_bytes()[:-1])
    with serve_bench(request, files, web_packages(), local=True) as bench:
        text = seen(tab, bench)
        (result,) = web_results(bench.gathering, request)
    assert "WRONG ANSWERS: whole.int8.tflite on wasm" in text
    assert text.count("TAMPERED") == 2
    assert result.files == ()
    assert ["TAMPERED" in own.what for own in result.failures] == [True, False, True]
    assert "WRONG" in result.failures[1].what


def test_a_second_device_a_reload_and_a_closed_tab(tab: Pipe) -> None:
    request = web_request(FLOAT, ONNX, sampling=Sampling(min_samples=10, max_samples=100_000, seconds=1.5))
    with serve_bench(request, offered(), web_packages(), local=True) as bench, piped_browser() as other:
        other("Page.enable")
        other("Page.navigate", url=bench.address + "?name=closed")
        other.wait_for("document.querySelectorAll('.chip.good').length > 0", 120)
        other.close_tab()
        tab("Page.navigate", url=bench.address + "?name=phone")
        tab.wait_for("document.querySelectorAll('.chip.good').length > 0", 120)
        tab("Page.reload")
        assert "Done, thank you" in seen(tab, bench)
        closed, phone = web_results(bench.gathering, request)
    assert [file.file for file in closed.files] == [FLOAT.name]
    assert "closed" in closed.failures[0].what
    assert (phone.target, phone.failures) == ("web:phone-wasm", ())
    assert any("loaded" in note for note in phone.notes)


def test_plain_http_without_a_secure_context_has_one_thread_and_checks_the_digest_itself(tab: Pipe) -> None:
    request = web_request(INTEGER, ONNX, threads=2)
    files, _ = offer_files(request)
    with serve_bench(request, files, web_packages(), local=True) as bench:
        # a name that is no localhost, so that the page is as insecure as on a phone
        address = bench.address.replace("localhost", "phone.test")
        insecure = replace(bench, address=address)
        with piped_browser(["--host-resolver-rules=MAP phone.test 127.0.0.1"]) as own:
            assert "Done, thank you" in seen(own, insecure)
            assert own.evaluate("isSecureContext") is False
        (result,) = web_results(bench.gathering, request)
    assert [file.threads for file in result.files] == [1, 1]
    assert any("no secure context" in note for note in result.notes)


def test_a_page_that_asks_too_often_is_patient(tab: Pipe) -> None:
    request = web_request(FLOAT, images=IMAGES)
    files, _ = offer_files(request)
    with serve_bench(request, files, web_packages(), local=True) as bench:
        take, refuse, refused = bench.gathering.take, [0], []

        def taken(message: Any) -> dict[str, Any]:
            if isinstance(message, PageOutputs) and not refused:
                refuse[0] = 4  # of the requests that come now: pictures and messages
            return take(message)

        def allows(client: str) -> bool:
            if refuse[0]:
                refuse[0] -= 1
                refused.append(client)
                return False
            return True

        bench.gathering.take = taken  # type: ignore[method-assign]
        bench.server.asked.allows = allows  # type: ignore[method-assign]
        assert "Done, thank you" in seen(tab, bench)
        (result,) = web_results(bench.gathering, request)
    assert len(refused) == 4
    assert result.files[0].metrics["answers"] == "359 of 359 as on the CPU"


def test_https_and_threads(tab: Pipe) -> None:
    request = web_request(INTEGER, ONNX, threads=2)
    request = replace(request, web=replace(request.web, https=True))
    files, _ = offer_files(request)
    with serve_bench(request, files, web_packages(), local=True) as bench:
        assert bench.address.startswith("https://")
        with piped_browser(["--ignore-certificate-errors"]) as own:
            assert "Done, thank you" in seen(own, bench)
        (result,) = web_results(bench.gathering, request)
    assert [file.threads for file in result.files] == [2, 2]


def test_webgpu_on_a_software_driver_answers_and_has_no_time(tab: Pipe) -> None:
    if not tab.evaluate("navigator.gpu ? navigator.gpu.requestAdapter().then(Boolean) : false"):
        pytest.skip("This browser has no adapter of WebGPU.")
    request = web_request(FLOAT)
    files, _ = offer_files(request)
    with serve_bench(request, files, web_packages(), local=True) as bench:
        assert "Done, thank you" in seen(tab, bench, "?webgpu=software")
        results = web_results(bench.gathering, request)
    assert [result.emulated for result in results] == [False, True]
    assert results[1].files[0].metrics["answers"] == "8 of 8 as on the CPU"


def test_the_pages_own_sha256_is_right(tab: Pipe) -> None:
    with serve_bench(web_request(), offered(), web_packages(), local=True) as bench:
        tab("Page.navigate", url=bench.address + "sha256.js")
        source = (Path(__file__).parents[4] / "device_bench/targets/web/page/sha256.js").read_text(encoding="utf-8")
        for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 100_003):
            data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
            script = f"(() => {{ {source}; return ownSha256(Uint8Array.from({json.dumps(list(data))})); }})()"
            assert tab.evaluate(script) == hashlib.sha256(data).hexdigest()
