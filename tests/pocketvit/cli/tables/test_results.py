import re
from dataclasses import replace

import pytest
from rich.console import Console

from device_bench import format
from device_bench.documents.results import BENCH_DOCUMENT
from device_bench.report.summary import summarise
from pocketvit.cli.tables.results import bench_table, summary_tables, tables_of_runs
from tests.device_bench.conftest import make_run
from tests.device_bench.report_fixtures import enrich


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("table") / "digits")


@pytest.fixture(scope="module")
def rich_run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("rich") / "digits")
    enrich(run)
    return run


def shown(width, *renderables):
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(*renderables, sep="\n")
    return capture.get()


@pytest.mark.parametrize("width", [60, 80, 100, 160, 400])
def test_no_figure_of_a_bench_is_broken_at_any_width(rich_run, width):
    result = BENCH_DOCUMENT.read(rich_run / "bench" / "cpu.json")
    text = shown(width, bench_table(result))
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for file in result.files:
        for figure in (
            format.size(file.memory.peak_rss_bytes),
            format.flop(file.flops),
            f"{format.joules(file.energy.joules_per_image)} measured",
            format.watts(file.energy.idle_w),
            format.grams(file.energy.grams_co2_per_image),
            format.percent(file.accuracy.top1),
        ):
            assert figure in text


def test_a_wide_terminal_has_one_table_and_a_narrow_one_several(rich_run):
    result = BENCH_DOCUMENT.read(rich_run / "bench" / "cpu.json")
    tables = [shown(width, bench_table(result)).count("precision ┃") for width in (80, 400)]
    frames = [shown(width, bench_table(result)).count("┏") for width in (80, 400)]
    assert tables == [1, 1]
    assert frames[0] > 3
    assert frames[1] == 1


def test_failures_notes_and_reasons_stand_below_the_figures(rich_run):
    result = BENCH_DOCUMENT.read(rich_run / "bench" / "cpu.json")
    text = shown(200, bench_table(result))
    below = text[text.rindex("┘") :]
    assert "NOT MEASURED: digits.fp16.onnx: ONNX Runtime cannot load it: no kernel for <Gelu> in float16" in below
    assert f"Note: {result.notes[0]}" in below
    assert "digits.onnx: Only 30 runs fitted into the time." in below
    assert "All files: energy measured by RAPL package-0." in below
    assert "digits.int8-full.tflite: no peak memory, The process was stopped after 120 s without an answer." in below


def test_what_was_not_measured_has_no_column(run):
    text = shown(160, bench_table(BENCH_DOCUMENT.read(run / "bench" / "cpu.json")))
    assert "median" in text
    for heading in ("images/s", "energy", "top-1", "load"):
        assert heading not in text


def test_a_bench_of_failures_alone_is_told(rich_run):
    result = replace(BENCH_DOCUMENT.read(rich_run / "bench" / "cpu.json"), files=(), notes=())
    assert "NOT MEASURED" in shown(80, bench_table(result))


def test_names_alone_are_broken(rich_run):
    result = BENCH_DOCUMENT.read(rich_run / "bench" / "cpu.json")
    long = "a-file-with-a-name-that-no-narrow-terminal-can-hold-in-one-line.tflite"
    text = shown(80, bench_table(replace(result, files=(replace(result.files[0], file=long),), failures=())))
    first = text[: text.index("┘")]
    names = re.findall(r"^│ (\S+) +│", first, re.MULTILINE)
    assert "".join(names) == long


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_summary_keeps_its_figures_whole(rich_run, width):
    summary = summarise(rich_run)
    text = shown(width, *summary_tables(summary, width))
    assert max(map(len, text.splitlines())) <= width
    for row in summary.rows:
        assert format.size(row.size_bytes) in text
        for timing in row.timings:
            assert format.seconds_interval(timing.median_s) in text
            assert format.times_interval(timing.speedup) in text
            assert format.percent(timing.top1) in text


def test_the_models_stand_only_where_they_have_figures(run):
    first, *others = summary_tables(summarise(run), 80)
    assert "sliced" in shown(80, first)
    assert others
    assert not any("sliced" in shown(80, table) for table in others)


def test_several_runs_share_one_baseline_and_one_table(run):
    def named(name, size):
        summary = summarise(run)
        rows = [replace(row, size_bytes=size) if row.name == "sliced" else row for row in summary.rows]
        return replace(summary, name=name, rows=tuple(rows))

    text = shown(400, *tables_of_runs([named("digits-macs-0.75", 1_230_000), named("digits-macs-0.5", 4_560_000)], 400))
    names = re.findall(r"^│ (\S+) +│", text, re.MULTILINE)
    files = [row.name for row in summarise(run).rows if row.precision and not row.name.startswith("baseline")]
    assert names == ["baseline", "digits-macs-0.75", "digits-macs-0.5", "baseline.fp32.tflite", *files, *files]
    one, other = (next(line for line in text.splitlines() if f"│ {name} " in line) for name in names[1:3])
    assert "1.23 MB" in one
    assert "4.56 MB" in other
    assert text.count("(reference)") == 1
