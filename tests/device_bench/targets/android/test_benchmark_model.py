from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_bench.targets.android.benchmark_model import (
    RUNS,
    BenchmarkOptions,
    Delegation,
    command,
    parse,
    reason,
    shortfalls,
)
from runtime import MeasurementError

from .phone import benchmark_text, recorded, statistics_line

TEXTS = ("cpu", "gpu_part", "gpu_none", "npu_idle", "old")


def test_a_run_on_the_cpu_is_read_whole() -> None:
    run = parse(recorded("benchmark_cpu.txt"))
    assert run.init_s == pytest.approx(0.061402)
    assert run.first_inference_s == pytest.approx(0.031257)
    assert (run.warmup.count, run.regular.count) == (26, 3)
    assert run.regular.raw_s == pytest.approx((0.019092, 0.019388, 0.019203))
    assert run.regular.median_s == pytest.approx(0.019203)
    assert (run.warmup.p5_s, run.warmup.p95_s) == pytest.approx((0.018951, 0.020377))
    assert run.warmup.raw_s is None
    assert run.warmup.std_s == pytest.approx(0.002372)
    assert run.of("cpu") == Delegation("XNNPACK", 2, whole=False, operations=204, of=231)
    assert run.of("gpu") is None
    assert run.init_bytes == round(48.6094 * 2**20)
    assert run.overall_bytes == round(55.3516 * 2**20)
    assert run.peak_bytes == round(60.4453 * 2**20)
    assert run.warnings == ()


@given(st.lists(st.integers(1, 2_000_000), min_size=1, max_size=RUNS), st.booleans())
def test_every_one_of_up_to_three_runs_is_told(values: list[int], newer: bool) -> None:
    text = benchmark_text(values).replace(statistics_line(values), statistics_line(values, percentiles=newer))
    raw = parse(text).regular.raw_s
    assert raw is not None
    # without percentiles, the middle one of three comes from a mean of six digits
    error = 1e-9 if newer else 3e-5 * max(values) * 1e-6
    assert raw == pytest.approx([value * 1e-6 for value in values], rel=0, abs=error)


@given(st.lists(st.integers(1, 2_000_000), min_size=4, max_size=60))
def test_the_statistics_of_many_runs_are_read_as_they_are(values: list[int]) -> None:
    told = parse(benchmark_text(values)).regular
    assert told.count == len(values)
    assert (told.first_s, told.last_s) == pytest.approx((values[0] * 1e-6, values[-1] * 1e-6))
    assert (told.min_s, told.max_s) == pytest.approx((min(values) * 1e-6, max(values) * 1e-6))
    assert (told.raw_s is None) == (len(set(values)) > 1)


def test_runs_that_are_all_alike_are_told() -> None:
    run = parse(recorded("benchmark_npu_idle.txt"))
    assert run.regular.raw_s == pytest.approx((1.2, 1.2, 1.2))
    assert run.warmup.raw_s == pytest.approx((1.234567,))


def test_an_older_program_without_percentiles_is_read_too() -> None:
    run = parse(recorded("benchmark_old.txt"))
    assert run.regular.median_s is None
    assert run.regular.raw_s == pytest.approx((2.727568, 2.933498, 3.189954), abs=2e-5)
    assert run.of("cpu") == Delegation("XNNPACK", 1, whole=True)
    assert run.overall_bytes == round(46.0859 * 2**20)
    assert run.peak_bytes is None


def test_the_order_of_the_two_outputs_does_not_matter() -> None:
    text = recorded("benchmark_gpu_part.txt")
    head, _, tail = text.partition("INFO: Initialized TensorFlow Lite runtime.")
    assert parse(f"INFO: Initialized TensorFlow Lite runtime.{tail}\n{head}") == parse(text)
    assert parse(text.replace("\n", "\r\n")) == parse(text)


def test_a_gpu_that_runs_a_part_is_said_loudly() -> None:
    run = parse(recorded("benchmark_gpu_part.txt"))
    assert run.of("gpu") == Delegation("GPU", 1, whole=False, operations=180, of=231)
    assert run.refused[0] == "GELU: Operation is not supported."
    (note,) = shortfalls(run, "gpu")
    assert note.startswith("ONLY PARTLY ON THE GPU: it runs 180 of 231 operations in 1 piece, and THE CPU THE REST")
    assert "GELU: Operation is not supported." in note


def test_a_backend_that_runs_nothing_is_said_loudly() -> None:
    (note,) = shortfalls(parse(recorded("benchmark_gpu_none.txt")), "gpu")
    assert note.startswith("NOT ON THE GPU: the GPU delegate was not applied (GPU acceleration is unsupported")
    assert note.endswith("THESE ARE TIMES OF THE CPU.")
    (note,) = shortfalls(parse(recorded("benchmark_npu_idle.txt")), "npu")
    assert note == "NOT ON THE NPU: the NNAPI delegate took no operation. THESE ARE TIMES OF THE CPU."
    (note,) = shortfalls(parse(recorded("benchmark_npu_idle.txt")), "cpu")
    assert note == "NOT ON THE CPU: the XNNPACK delegate was not applied."


def test_operations_that_xnnpack_leaves_are_said_quietly() -> None:
    (note,) = shortfalls(parse(recorded("benchmark_cpu.txt")), "cpu")
    assert note == (
        "XNNPACK runs 204 of 231 operations in 2 pieces; LiteRT's plain kernels run the rest, on the CPU too."
    )
    assert shortfalls(parse(recorded("benchmark_old.txt")), "cpu") == ()


def test_a_program_that_does_not_know_a_flag_is_said_loudly() -> None:
    text = recorded("benchmark_old.txt") + "WARN: Unconsumed cmdline flags: --use_gpu=true\n"
    notes = shortfalls(parse(text), "cpu")
    assert notes == ("THIS BENCHMARK_MODEL DOES NOT KNOW --use_gpu=true: it was not measured as asked.",)


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_was_cut_is_refused_or_the_same(name: str) -> None:
    text = recorded(f"benchmark_{name}.txt")
    whole = parse(text)
    begin = text.index("Inference (avg)")
    end = text.index("\n", begin)
    for cut in range(0, begin, 5):
        with pytest.raises(MeasurementError):
            parse(text[:cut])
    for cut in range(begin, end + 1):
        try:
            late = parse(text[:cut])
        except MeasurementError:
            continue
        # a digit that is lost of the second copy of a mean does no harm, and what comes later is optional
        assert cut > end - 3
        assert (late.init_s, late.regular, late.warmup) == (whole.init_s, whole.regular, whole.warmup)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("min=19092 max=19388", "min=19388 max=19092"),
        ("median=19203 p95=19388", "median=19203 p95=29388"),
        ("avg=19227.7 std=122", "avg=91227.7 std=122"),
        ("curr=19203", "curr=99203"),
        ("Inference (avg): 19227.7", "Inference (avg): 1922"),
        ("First inference: 31257", "First inference: 3125"),
        ("count=3 first", "count=1 first"),
        ("count=3 first", f"count={'9' * 5000} first"),
        ("avg=19227.7", "avg=nan"),
        ("INFO: count=3", "INFO: count=-3"),
        ("init=48.6094", "init=1e999"),
    ],
)
def test_a_damaged_text_is_refused(old: str, new: str) -> None:
    text = recorded("benchmark_cpu.txt")
    assert old in text
    with pytest.raises(MeasurementError):
        parse(text.replace(old, new))


@pytest.mark.parametrize("text", ["", "hello\n", "count=1 curr=1\n" * 3, "\0\xff" * 50, "INFO: STARTING!\n"])
def test_a_foreign_text_says_what_is_missing(text: str) -> None:
    with pytest.raises(MeasurementError, match=r"two lines of statistics|Inference timings"):
        parse(text)


@given(st.text(max_size=400))
def test_no_text_ends_in_another_error(text: str) -> None:
    for whole in (text, recorded("benchmark_cpu.txt")[:300] + text):
        with pytest.raises(MeasurementError):
            parse(whole)


def test_a_run_that_failed_gives_the_programs_own_reason() -> None:
    with pytest.raises(MeasurementError, match=r"unsupported data layout.*Failed to apply GPU delegate"):
        parse(recorded("benchmark_failed.txt"))
    with pytest.raises(MeasurementError, match=r"Could not open 'model-0\.tflite'"):
        parse(recorded("benchmark_no_file.txt"))
    assert reason("Segmentation fault \n") == "Segmentation fault"
    assert reason("") == "nothing"
    assert len(reason("ERROR: " + "x" * 5000)) == 301


def test_the_command_asks_for_exactly_what_is_wanted() -> None:
    assert command(BenchmarkOptions("model-0.tflite", "gpu", threads=4, most_s=60)) == [
        "./benchmark_model",
        "--graph=model-0.tflite",
        "--num_threads=4",
        "--num_runs=3",
        "--min_secs=0",
        "--max_secs=60",
        "--warmup_runs=1",
        "--warmup_min_secs=0.5",
        "--use_gpu=true",
    ]
    words = command(BenchmarkOptions("m", "npu", peak_memory=True), program="/x/y")
    assert words[0] == "/x/y"
    assert words[-2:] == ["--use_nnapi=true", "--report_peak_memory_footprint=true"]
    assert "--use_xnnpack=true" in command(BenchmarkOptions("m"))
