import doctest
from dataclasses import replace

import pytest

import device_bench.columns
import device_bench.interval
import device_bench.metrics.base
import device_bench.report.render.document
import device_bench.report.render.markdown
import device_bench.report.render.matrices
import device_bench.report.tradeoffs
from device_bench.columns import of_view
from device_bench.documents.measurement import Sampling
from device_bench.documents.results import BENCH_DOCUMENT, BenchResult
from device_bench.format import MISSING
from device_bench.interval import share_interval
from device_bench.metrics.base import Measured, said_once
from device_bench.metrics.energy import ENERGY
from device_bench.report.confusions import confusions
from device_bench.report.machine import machine_rows, unknown_facts
from device_bench.report.render.document import table
from device_bench.report.summary import summarise
from device_bench.report.tradeoffs import Point, accuracy_words, frontier, short_names, tradeoffs
from tests.device_bench.conftest import MACHINE
from tests.device_bench.report_fixtures import enrich


@pytest.mark.parametrize(
    "module",
    [
        device_bench.columns,
        device_bench.interval,
        device_bench.metrics.base,
        device_bench.report.render.matrices,
        device_bench.report.render.document,
        device_bench.report.render.markdown,
        device_bench.report.tradeoffs,
    ],
    ids=lambda module: module.__name__,
)
def test_examples_in_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_frontier_holds_what_nothing_beats():
    points = [
        Point("cheap", 1.0, 0.80, True),
        Point("middle", 2.0, 0.90, True),
        Point("as dear", 2.0, 0.85, True),
        Point("as good", 3.0, 0.90, True),
        Point("twin", 2.0, 0.90, True),
        Point("best", 5.0, 0.95, True),
    ]
    assert [point.file for point in frontier(points)] == ["cheap", "middle", "twin", "best"]
    assert frontier(()) == ()


def test_accuracy_is_of_the_target_where_there_is_one(run):
    summary = summarise(run)
    found = tradeoffs(summary, "cpu")
    assert [one.what for one in found] == ["latency", "size"]
    point = next(point for point in found[0].points if point.file == "digits.int8.tflite")
    assert (point.top1, point.on_target) == (0.977, False)
    assert "none was measured on cpu" in accuracy_words(found, summary, "cpu")

    bench = enrich(run)
    summary = summarise(run)
    found = tradeoffs(summary, "cpu")
    assert [one.axis for one in found][2] == "energy per image, mJ (measured)"
    own = bench.of("digits.int8.tflite")
    point = next(point for point in found[0].points if point.file == own.file)
    assert (point.top1, point.on_target) == (own.accuracy.top1, True)
    assert accuracy_words(found, summary, "cpu") == "Top-1 was measured on cpu itself, on 500 images."

    half = tuple(replace(file, accuracy=None) if file is own else file for file in bench.files)
    BENCH_DOCUMENT.write(run / "bench" / "cpu.json", replace(bench, files=half))
    summary = summarise(run)
    words = accuracy_words(tradeoffs(summary, "cpu"), summary, "cpu")
    assert "that of digits.int8.tflite (hollow) at export" in words


def test_names_are_shortened_only_where_they_stay_different():
    assert short_names(["baseline.onnx", "a.onnx", "b.onnx"])["a.onnx"] == "a.onnx"
    assert short_names(["a.onnx", "a.int8.onnx"]) == {"a.onnx": "onnx", "a.int8.onnx": "int8.onnx"}
    assert short_names(["a"]) == {"a": "a"}


def test_the_interval_of_a_share_stays_between_none_and_all():
    assert share_interval(1.0, 10).low == pytest.approx(0.7225, abs=1e-4)
    assert share_interval(1.0, 10).high == pytest.approx(1.0)
    assert share_interval(0.0, 10).low == pytest.approx(0.0)


def test_an_energy_without_a_value_has_its_reason(run):
    bench = enrich(run, energy="unavailable")
    assert energy_table(bench.files) is None
    assert energy_notes(bench.files) == [
        "All files: energy unavailable, no counter of this machine can be read; run it as root."
    ]
    some = enrich_one(run, bench)
    rows = {row.name: row.cells for row in energy_table(some).rows}
    assert rows[some[0].file][0].detail == "estimated"
    assert rows[some[1].file][0].value == "unavailable"
    assert any(f"{some[0].file}: energy estimated by" in note for note in energy_notes(some))


def energy_rows(files):
    bench = BenchResult("cpu", "2025-01-02T03:04:05+00:00", "0.1.0", 0, Sampling(), MACHINE, MACHINE, tuple(files))
    return [Measured(bench, file) for file in files]


def energy_table(files):
    return table("File", of_view(ENERGY.columns, "report"), energy_rows(files), lambda own: own.file.file)


def energy_notes(files):
    return said_once(ENERGY.remarks(energy_rows(files)), len(files))


def enrich_one(run, bench):
    other = enrich(run, energy="estimated")
    return (other.files[0], *bench.files[1:])


def test_a_grid_that_is_not_known_says_why(run):
    bench = enrich(run)
    energy = replace(bench.files[0].energy, grams_per_kwh=None, country=None, carbon_reason="no country was named.")
    files = (replace(bench.files[0], energy=energy),)
    assert energy_notes(files)[1] == "All files: no CO₂, no country was named."
    assert "CO₂ per image" not in [heading.text for heading in energy_table(files).headings]


def test_a_matrix_shows_changes_against_the_baseline(run):
    bench = enrich(run)
    found = confusions(summarise(run), bench.files)
    first, second = found.matrices[:2]
    assert (first.file, first.compared, second.compared) == ("baseline.fp32.tflite", False, True)
    for i, row in enumerate(second.rows):
        for j, cell in enumerate(row):
            assert cell.count - cell.change == first.rows[i][j].count
            assert (cell.level == 0) == (cell.count == 0)
    assert found.names[0] == "1 class 0"  # long names are numbered, and columns bear the numbers
    assert found.heads[0] == "1"
    true, answer, counts = found.pairs[0]
    assert true != answer
    assert max(counts) == max(max(own) for _, _, own in found.pairs)


def test_files_that_know_other_classes_are_not_compared(run):
    bench = enrich(run)
    other = replace(bench.files[1].accuracy, classes=2, counts=((0, 0, 3), (0, 1, 1), (1, 1, 4)))
    files = (bench.files[0], replace(bench.files[1], accuracy=other), *bench.files[2:])
    assert bench.files[1].file not in confusions(summarise(run), files).files


def test_every_field_that_a_machine_tells_is_a_row():
    before = replace(MACHINE, temperature_c=51.25, affinity=(0, 2), throttled_bits=0x50000, virtualised=True)
    after = replace(before, temperature_c=60.0, steal_s=1.5)
    rows = {what: (early, late) for what, early, late in machine_rows(before, after)}
    assert rows["Temperature"] == ("51.2 °C", "60.0 °C")
    assert rows["Clock"] == ("1.50 to 2.40 GHz",) * 2
    assert rows["Cores it may use"] == ("0 2",) * 2
    assert rows["Throttled, bits"] == ("0x50000",) * 2
    assert rows["Virtual machine"] == ("yes",) * 2
    assert rows["Core time given to others by a hypervisor"] == (MISSING, "1.50 s")
    assert rows["numpy"] == ("2.1.0",) * 2
    assert "Board" not in rows
    assert "Board" in unknown_facts(before, after)
    assert "Temperature" not in unknown_facts(before, after)


def test_an_older_state_without_the_newer_fields_is_shown(run):
    state = BENCH_DOCUMENT.read(run / "bench" / "cpu.json").before
    assert [what for what, _, _ in machine_rows(state, state)][:2] == ["Processor", "Logical cores"]
