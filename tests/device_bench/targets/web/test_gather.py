"""What browsers send becomes results: nothing twice, nothing lost, nothing of another page, and nothing impossible."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from device_bench.documents.figures import Failure
from device_bench.documents.results import BENCH_DOCUMENT
from device_bench.targets.web.gather import MOST_DEVICES, Gathering, OutOfStepError
from device_bench.targets.web.results import web_results
from runtime import MeasurementError

from .pages import SAMPLING, FakePage, offered, web_request, wrong_copy

SOFTWARE = {"vendor": "google", "architecture": "swiftshader", "description": "", "software": True}


@pytest.fixture
def gathering() -> Gathering:
    return Gathering(offered(), SAMPLING)


def test_two_devices_become_two_results_with_their_own_times(gathering: Gathering, tmp_path: Any) -> None:
    first, second = FakePage(gathering, 1), FakePage(gathering, 2)
    assert first.hello()["label"] == "pixel-8-chrome"
    assert second.hello()["label"] == "pixel-8-chrome-2"
    for file in (0, 1):
        first.measure(file, 0.010 + file, 0.011 + file)
        second.measure(file, 0.020 + file, 0.021 + file)
    results = web_results(gathering, web_request(), [Failure("c.pt2", "No browser runs it.")])
    assert [result.target for result in results] == ["web:pixel-8-chrome-wasm", "web:pixel-8-chrome-2-wasm"]
    times = [[file.latency.values for file in result.files if file.latency] for result in results]
    assert times == [[(0.010, 0.011), (1.010, 1.011)], [(0.020, 0.021), (1.020, 1.021)]]
    (found, _) = results[0].files
    assert (found.engine, found.threads, found.metrics["answers"]) == ("LiteRT.js wasm", 1, "8 of 8 as on the CPU")
    assert results[0].failures == (Failure("c.pt2", "No browser runs it."),)
    assert any("Pixel 8" in note and "9 logical cores" in note for note in results[0].notes)
    BENCH_DOCUMENT.write(tmp_path / "a.json", results[0])
    assert BENCH_DOCUMENT.read(tmp_path / "a.json") == results[0]


def test_a_message_that_comes_twice_counts_once_and_another_under_its_number_is_refused(gathering: Gathering) -> None:
    page = FakePage(gathering)
    page.hello()
    key = page.begin(0)
    for _ in range(2):
        page.outputs(key)
        page.times(key, 0, 0.01, 0.02)
    with pytest.raises(MeasurementError, match="Other times came under this number"):
        page.times(key, 0, 0.01, 0.03)
    with pytest.raises(MeasurementError, match="Another output came for this picture"):
        page.outputs(key, shift=1)
    assert page.done(key, 1) == page.done(key, 1)
    part = gathering.visits()[0].parts[0, "wasm"]
    assert part.series(warmup=False) == (0.01, 0.02)


def test_what_was_lost_is_asked_for_again(gathering: Gathering) -> None:
    page = FakePage(gathering)
    page.hello()
    key = page.begin(0)
    page.times(key, 1, 0.01)
    assert page.done(key, 2) == {"kept": False, "batches": [0], "pictures": [*range(8)]}
    page.outputs(key)
    page.times(key, 0, 0.02)
    assert page.done(key, 2)["kept"]
    assert gathering.visits()[0].parts[0, "wasm"].series(warmup=False) == (0.02, 0.01)


def test_a_page_that_is_loaded_again_goes_on_and_its_older_attempt_is_dropped(gathering: Gathering) -> None:
    page = FakePage(gathering)
    page.hello()
    page.measure(0, 0.01)
    old = page.begin(1)
    page.times(old, 0, 9.0)
    again = page.hello()
    assert again["label"] == "pixel-8-chrome"
    assert [(own["file"], own["median_s"]) for own in again["ended"]] == [(0, 0.01)]
    assert page.send("begin", file=0, backend="wasm", attempt=f"{5:032x}")["ended"]
    page.measure(1, 0.02)
    with pytest.raises(OutOfStepError):
        page.times(old, 1, 9.0)
    assert page.send("sign", finished=True) == {"kept": True}
    (result,) = web_results(gathering, web_request())
    assert [file.latency.values for file in result.files if file.latency] == [(0.01,), (0.02,)]
    assert "The page was loaded 2 times." in result.notes


def test_a_closed_tab_keeps_what_was_done_and_names_what_was_not() -> None:
    clock = itertools.count(0, 10)
    gathering = Gathering(offered(), SAMPLING, clock=lambda: float(next(clock)))
    page = FakePage(gathering)
    page.hello()
    page.measure(0, 0.01)
    key = page.begin(1)
    page.times(key, 0, 0.01)
    assert gathering.counts(silence_s=100.0)[:2] == (0, 1)
    assert gathering.counts(silence_s=5.0)[:2] == (0, 0)
    (result,) = web_results(gathering, web_request())
    assert [file.file for file in result.files] == ["whole.fp32.tflite"]
    (failed,) = result.failures
    assert failed.file == "whole.onnx"
    assert "closed" in failed.what


def test_a_page_that_is_not_done_is_not_finished(gathering: Gathering) -> None:
    page = FakePage(gathering)
    page.hello()
    page.measure(0, 0.01)
    answer = page.send("sign", finished=True)
    assert answer == {"kept": False, "missing": [{"file": 1, "backend": "wasm"}]}
    assert gathering.counts(100.0)[0] == 0


def test_wrong_answers_are_said_and_their_times_are_not_kept() -> None:
    heard: list[str] = []
    gathering = Gathering([wrong_copy(offered()[0]), offered()[1]], SAMPLING, heard=heard.append)
    page = FakePage(gathering)
    page.hello()
    answer = page.send("hello", backends=["wasm"], facts=page.facts)
    assert answer["ended"] == []
    told = page.measure(0, 0.01, shift=-1)
    assert "cosine" in told["wrong"]
    page.measure(1, 0.01)
    (result,) = web_results(gathering, web_request())
    assert [file.file for file in result.files] == ["whole.onnx"]
    assert "ITS ANSWERS ARE WRONG" in result.failures[0].what
    assert any("WRONG" in line for line in heard)


def test_a_failure_is_the_browsers_own_words(gathering: Gathering) -> None:
    page = FakePage(gathering)
    page.hello()
    page.send("failed", **page.begin(0), what="out of memory")
    (result,) = web_results(gathering, web_request())
    assert result.failures[0].what == "The browser says: out of memory"


def test_a_gpu_that_computes_on_the_cpu_has_answers_and_no_times(gathering: Gathering) -> None:
    page = FakePage(gathering, backends=("wasm", "webgpu"), gpu=SOFTWARE)
    page.hello()
    for file in (0, 1):
        page.measure(file, 0.01)
        key = page.begin(file, "webgpu")
        page.outputs(key)
        assert page.done(key, 0)["kept"]
    wasm, webgpu = web_results(gathering, web_request())
    assert (wasm.emulated, webgpu.emulated) == (False, True)
    assert webgpu.target == "web:pixel-8-chrome-webgpu"
    assert all(not file.measurements for file in webgpu.files)


def test_others_must_have_times(gathering: Gathering) -> None:
    page = FakePage(gathering)
    page.hello()
    key = page.begin(0)
    page.outputs(key)
    with pytest.raises(MeasurementError, match="has no times"):
        page.done(key, 0)


def test_what_a_reader_must_know_is_said(gathering: Gathering) -> None:
    safari = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) Version/18.1 Mobile/15E148 Safari/604.1"
    page = FakePage(gathering, user_agent=safari, model="", isolated=False, secure=False)
    assert page.hello()["label"] == "iphone-safari"
    key = page.begin(0)
    page.outputs(key)
    page.times(key, 0, 0.01)
    page.done(key, 1, hidden=True, runs_per_value=5, resolution_s=1e-3)
    (result,) = web_results(gathering, web_request())
    assert any("have not tried this browser" in note for note in result.notes)
    assert any("no secure context and not isolated" in note for note in result.notes)
    notes = " ".join(result.files[0].notes)
    assert "IN THE BACKGROUND" in notes
    assert "mean of 5 runs" in notes


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("times", {"sequence": 0, "warmup": False, "values": [float("nan")]}),
        ("times", {"sequence": 0, "warmup": False, "values": [-1.0]}),
        ("times", {"sequence": 0, "warmup": False, "values": []}),
        ("times", {"sequence": 0, "warmup": False, "values": [0.1] * 300}),
        ("times", {"sequence": 0, "warmup": False, "values": [0.1] * 13}),
        ("times", {"sequence": -1, "warmup": False, "values": [0.1]}),
        ("times", {"sequence": 0, "warmup": "no", "values": [0.1]}),
        ("times", {"sequence": 0, "warmup": False, "values": [0.1], "more": 1}),
        ("outputs", {"first": 0, "outputs": ["AAAA"]}),
        ("outputs", {"first": 0, "outputs": ["not base64"]}),
        ("outputs", {"first": 10**9, "outputs": ["AAAA"]}),
        ("failed", {"what": "x" * 5000}),
    ],
)
def test_an_impossible_message_changes_nothing(kind: str, body: dict[str, Any], gathering: Gathering) -> None:
    page = FakePage(gathering)
    page.hello()
    key = page.begin(0)
    with pytest.raises((MeasurementError, ValueError)):
        page.send(kind, **key, **body)
    part = gathering.visits()[0].parts[0, "wasm"]
    assert (part.times, part.outputs, part.failure) == ({}, {}, None)


def test_pages_and_parts_that_are_not_known_are_refused(gathering: Gathering) -> None:
    with pytest.raises(OutOfStepError):
        FakePage(gathering).send("sign")
    page = FakePage(gathering)
    page.hello()
    for file, backend in ((7, "wasm"), (0, "webgpu")):
        with pytest.raises(MeasurementError, match="No such file and backend"):
            page.begin(file, backend)
    for number in range(2, MOST_DEVICES + 1):
        FakePage(gathering, number).hello()
    with pytest.raises(MeasurementError, match="too many pages"):
        FakePage(gathering, MOST_DEVICES + 1).hello()
