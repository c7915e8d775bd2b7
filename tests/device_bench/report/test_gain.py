from dataclasses import replace

import pytest

from device_bench.documents.results import BENCH_DOCUMENT
from device_bench.interval import Interval
from device_bench.report.gain import Gain
from device_bench.report.summary import summarise
from device_bench.timing.stats import ratio_of_medians
from runtime import ArtifactError, macs
from tests.device_bench.conftest import BASELINE, SLICED
from tests.device_bench.searches import write_table

SHARE = macs(SLICED) / macs(BASELINE)


def gain(low: float, high: float, share: float = 0.5) -> Gain:
    return Gain("a.fp32.tflite", "baseline.fp32.tflite", "fp32", "cpu", share, Interval((low + high) / 2, low, high))


def slow_down(run, file, factor):
    """Makes ``file`` in the bench as fast as the baseline divided by ``factor``, round by round."""
    path = run / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    latency = bench.files[0].latency
    values = replace(latency, values=tuple(factor * value for value in latency.values))
    files = [replace(item, measurements=(values,)) if item.file == file else item for item in bench.files]
    BENCH_DOCUMENT.write(path, replace(bench, files=tuple(files)))


def test_the_promise_stands_beside_the_measurement(run):
    summary = summarise(run)
    bench = BENCH_DOCUMENT.read(run / "bench" / "cpu.json")
    (found,) = summary.gains
    assert (found.file, found.baseline, found.target) == ("digits.fp32.tflite", "baseline.fp32.tflite", "cpu")
    assert found.macs_share == SHARE
    assert found.promised == 1 / SHARE
    before, after = (bench.of(name).latency.values for name in (found.baseline, found.file))
    assert found.measured == ratio_of_medians(before, after)
    assert found.table is None
    assert found.sentence in summary.notes
    assert "its MACs promised" in found.sentence


def test_a_latency_table_is_a_third_figure(run):
    write_table(run)
    (found,) = summarise(run).gains
    assert found.table == pytest.approx((192 / 168) ** 2)
    assert "its latency table 1.31×" in found.sentence  # noqa: RUF001
    write_table(run, "int8")
    assert summarise(run).gains[0].table is None
    (run / "search" / "latency.json").write_text("{}")
    with pytest.raises(ArtifactError):
        summarise(run)


def test_int8_is_compared_where_the_baseline_has_a_file_of_it(run):
    """Quantisation is no merit of pruning, so files of another precision or engine are not compared."""
    assert [gain.file for gain in summarise(run).gains] == ["digits.fp32.tflite"]


def test_a_speedup_that_misses_half_of_the_promise_says_what_to_do(run):
    assert not summarise(run).gains[0].falls_short
    slow_down(run, "digits.fp32.tflite", 0.97)
    summary = summarise(run)
    assert summary.gains[0].falls_short
    (note,) = [note for note in summary.notes if "less than half" in note]
    assert "--cost latency@cpu" in note
    assert "digits.fp32.tflite is 1.03×" in note  # noqa: RUF001


def test_a_run_that_has_a_latency_table_is_not_told_to_make_one(run):
    slow_down(run, "digits.fp32.tflite", 0.97)
    write_table(run)
    (note,) = [note for note in summarise(run).notes if "less than half" in note]
    assert "--cost" not in note
    assert "The run's latency table predicts 1.31×" in note  # noqa: RUF001


@pytest.mark.parametrize(
    ("low", "high", "short"),
    [
        (1.20, 1.30, True),  # saved at most 23 % where 50 % fewer MACs promise 50 %
        (1.20, 1.34, False),  # the interval still reaches 25.4 %, a little over half of the promise
        (0.80, 0.90, True),  # slower than before
        (1.90, 2.10, False),
    ],
)
def test_noise_does_not_raise_the_warning(low, high, short):
    assert gain(low, high).falls_short == short


def test_a_model_that_was_not_pruned_promises_nothing():
    assert not gain(0.99, 1.01, share=1.0).falls_short


def test_a_model_of_the_same_macs_promises_nothing_and_misses_nothing():
    slower = gain(0.97, 0.99, share=1.0)
    assert not slower.falls_short
    assert slower.sentence.startswith("a.fp32.tflite has the MACs of baseline.fp32.tflite, and is 0.98")


def test_what_was_timed_before_the_file_changed_or_in_another_way_is_not_compared(run):
    path = run / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    for change in ({"sha256": "0" * 64}, {"threads": 4}, {"measurements": ()}):
        BENCH_DOCUMENT.write(path, replace(bench, files=(replace(bench.files[0], **change), *bench.files[1:])))
        assert summarise(run).gains == ()


def test_every_target_has_its_own(run):
    bench = BENCH_DOCUMENT.read(run / "bench" / "cpu.json")
    BENCH_DOCUMENT.write(run / "bench" / "board.json", replace(bench, target="board"))
    assert {gain.target for gain in summarise(run).gains} == {"cpu", "board"}
