import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from device_bench import format
from device_bench.documents.figures import Failure, MemoryUse
from device_bench.documents.op_times import times_path, write_times
from device_bench.documents.results import BENCH_DOCUMENT
from device_bench.report.page import write_report
from device_bench.report.summary import summarise
from device_bench.targets.fleet import Fleet
from device_bench.targets.fleet_folder import write_fleet
from runtime import MissingExtraError, RunFolderError
from tests.device_bench.conftest import make_run
from tests.device_bench.fleets import emulated, failure
from tests.device_bench.report_fixtures import enrich, op_times
from tests.device_bench.searches import write_rounds, write_steps, write_table

from .test_gain import slow_down

VOID = {"meta", "br", "col", "hr", "img", "input", "link"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed wrongly, and collects what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.references += [value for name, value in attrs if name in {"src", "href", "xlink:href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html: str) -> Balanced:
    page = Balanced()
    page.feed(html)
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run with latencies and a search, and its report; not to be changed."""
    run = make_run(tmp_path_factory.mktemp("plain") / "digits")
    write_rounds(run)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run with whatever can be measured, and its report; not to be changed."""
    run = make_run(tmp_path_factory.mktemp("full") / "digits")
    enrich(run)
    write_report(run)
    return run


@pytest.fixture
def light(run):
    """A run without its models, whose report has half of the pictures."""
    for name in ("baseline", "sliced"):
        shutil.rmtree(run / name)
    return run


@pytest.fixture
def unmeasured(run):
    """A run before its export."""
    for name in ("artifacts", "bench"):
        shutil.rmtree(run / name)
    return run


def texts(run):
    return tuple((run / name).read_text() for name in ("report.md", "report.html"))


def section(markdown, heading):
    return markdown.split(f"\n## {heading}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("kind", ["plain", "full"])
def test_the_page_is_well_formed_and_asks_for_nothing(kind, request):
    _, html = texts(request.getfixturevalue(kind))
    page = parsed(html)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(reference.startswith("#") for reference in page.references)
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html


def test_both_reports_carry_the_same_figures(plain):
    markdown, html = texts(plain)
    for figure in (
        "5.41 M",
        "2.19 M",
        "97.9 %",
        "6.16 ms",
        "[6.13, 6.18]",
        "31.4 dB",
        "schedutil",
        "stopped after 120 s",
    ):
        assert figure in markdown
        assert figure in html


def test_names_from_outside_are_escaped(full):
    markdown, html = texts(full)
    assert "<Gelu>" not in html
    assert "no kernel for &lt;Gelu&gt;" in markdown
    assert "<co>" not in html
    assert "Example Core 9 &amp; &lt;co&gt;" in html
    assert "vit\\_tiny \\| &lt;sliced&gt;" in markdown


@pytest.mark.parametrize(("kind", "count"), [("plain", 10), ("full", 14)])
def test_rows_of_the_markdown_tables_have_as_many_cells_as_their_heads(kind, count, request):
    markdown, _ = texts(request.getfixturevalue(kind))
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert len(tables) == count
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
        assert re.fullmatch(r"[|:-]+", table.splitlines()[1])


@pytest.mark.parametrize(
    ("kind", "own"), [("plain", ["search"]), ("full", ["parts", "operators"])], ids=["plain", "full"]
)
def test_pictures_of_the_markdown_stand_beside_it(kind, own, request):
    run = request.getfixturevalue(kind)
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", texts(run)[0])
    keys = ["tradeoffs", "latency", "shapes", *own, "widths", "training"]
    assert pictures == [f"report-{key}.svg" for key in keys]
    for picture in pictures:
        root = ElementTree.parse(run / picture).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        ids = re.findall(r' id="([^"]+)"', (run / picture).read_text())
        references = re.findall(r'(?:href="|url\()#([^")]+)', (run / picture).read_text())
        assert set(references) <= set(ids)


def test_the_same_folder_gives_the_same_bytes(full, tmp_path):
    again = tmp_path / "digits"
    shutil.copytree(full, again, ignore=shutil.ignore_patterns("report*"))
    write_report(again)
    first, second = ({path.name: path.read_bytes() for path in run.glob("report*")} for run in (full, again))
    assert first == second
    assert len(first) == 9


@pytest.mark.parametrize("kind", ["plain", "full"])
def test_every_colour_of_a_picture_follows_the_page(kind, request):
    _, html = texts(request.getfixturevalue(kind))
    pictures = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--after)" in pictures
    for name in set(re.findall(r"var\((--\w+)\)", pictures)):
        assert html.count(f"{name}: #") == 3  # light, dark, print
    assert re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", pictures) == []


@pytest.mark.parametrize("missing", ["baseline", "sliced", "artifacts", "bench"])
def test_an_unfinished_run_has_a_report(run, missing):
    (run / missing).rename(run.parent / missing)
    markdown, html = (path.read_text() for path in write_report(run))
    parsed(html)
    assert "None" not in markdown
    assert "None" not in html
    assert ("Median latency" in markdown) == (missing not in ("artifacts", "bench"))


def test_a_second_target_has_a_table_of_its_own(light):
    bench = BENCH_DOCUMENT.read(light / "bench" / "cpu.json")
    BENCH_DOCUMENT.write(light / "bench" / "board.json", replace(bench, target="board"))
    markdown, html = (path.read_text() for path in write_report(light))
    assert "## On board" in markdown
    assert "<h2>On board</h2>" in html
    assert "<h2>Latency on cpu</h2>" in html
    assert "<h2>Latency on board</h2>" in html
    assert (light / "report-latency-2.svg").exists()


def test_an_unsettled_warm_up_is_said(light):
    path = light / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    unsettled = (replace(bench.files[1].latency, steady=False),)
    files = (bench.files[0], replace(bench.files[1], measurements=unsettled), *bench.files[2:])
    BENCH_DOCUMENT.write(path, replace(bench, files=files))
    for report in write_report(light):
        assert re.search(r"warm-up of digits\.fp32\.tflite reached its cap", report.read_text())


def test_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(RunFolderError):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_names_its_extra_and_nothing_is_written(run, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*pocketvit\[bench\]"):
        write_report(run)
    assert not list(run.glob("report*"))


def test_a_search_over_trees_has_a_figure_and_a_row_per_round(plain):
    markdown, html = texts(plain)
    rows = [line for line in markdown.splitlines() if re.match(r"\| [12] \|", line)]
    assert rows == [
        "| 1 | 5 | 2 | 1 | 525 | +0.1043 | 86.0 % | 80.0 % | mlp 4, embed |",
        "| 2 | 4 | 1 | 0 | 325 | +0.2283 | 82.0 % | 70.0 % | mlp 4 |",
    ]
    for text in ("mlp 4, embed", "+0.1043", "at most what is drawn", "search/iteration-*/journal.jsonl"):
        assert text in html
        assert text.replace("*", "\\*") in markdown
    for text in ("round 1", "round 2", "chosen", "stopped early: at most", "best for its cost", "parameters left"):
        assert text in html


def test_a_search_along_one_path_rings_its_end(unmeasured, plain):
    assert all("what the round chose, the highest" in text for text in texts(plain))
    write_rounds(unmeasured)
    first, _ = sorted((unmeasured / "search").glob("*/journal.jsonl"))
    first.write_text(first.read_text().replace('"settings": {', '"settings": {"search": "greedy", '))
    found = [path.read_text() for path in write_report(unmeasured)]
    assert all("Ringed: the end of the path that was followed." in text for text in found)


def test_a_search_in_one_go_shows_what_it_gave_up(unmeasured):
    write_steps(unmeasured)
    html = write_report(unmeasured)[1].read_text()
    parsed(html)
    assert "least importance per cost saved first: mlp 2, head 1" in html
    assert "Importance lost, summed" in html
    assert "MACs left, % of the baseline" in html
    write_steps(unmeasured, "milp", "latency@cpu=0.9")
    html = write_report(unmeasured)[1].read_text()
    assert "by integer programming" in html
    assert "latency left, ms" in html


def test_a_damaged_journal_costs_its_figure_alone(unmeasured):
    write_rounds(unmeasured)
    path = unmeasured / "search" / "iteration-02" / "journal.jsonl"
    path.write_text(path.read_text().replace('"op": "look"', '"op": "<guess>"'))
    markdown, html = (path.read_text() for path in write_report(unmeasured))
    parsed(html)
    assert not (unmeasured / "report-search.svg").exists()
    for text in (markdown, html):
        assert "The search is not shown: " in text
        assert "no operation of a search" in text
        assert "<guess>" not in text
        assert "Training loss" in html


def test_the_promise_of_macs_stands_beside_what_was_measured(run, plain):
    for text in texts(plain):
        assert "Promised by MACs" in text
        assert "2.45×" in text  # noqa: RUF001
        assert "latency table" not in text
        assert "less than half" not in text
    write_table(run)
    for text in (path.read_text() for path in write_report(run)):
        assert "Predicted by the latency table" in text
        assert "1.31×" in text  # noqa: RUF001
        assert "search/latency.json" in text


def test_a_broken_promise_is_said_once(light):
    slow_down(light, "digits.fp32.tflite", 0.97)
    for text in (path.read_text() for path in write_report(light)):
        assert text.count("Pruning bought less than half") == 1
        assert "--cost latency@cpu" in text


def test_everything_measured_stands_in_both_reports(full):
    bench = BENCH_DOCUMENT.read(full / "bench" / "cpu.json")
    own = bench.of("digits.int8.tflite")
    for text in texts(full):
        for figure in (
            "39.0 ms",  # load
            format.rate(own.best_throughput.median),
            "batch 1, 2 streams, 1 thread",
            "713 MFLOP",
            "of 241 GFLOP/s, int8",
            f"{format.joules(own.energy.joules_per_image)}",
            "measured",
            "4.10 W",
            "grid of DEU",
            "381 g/kWh",
            "RAPL package-0",
            "of 500",
            "latency, size, energy",
            "Pareto frontier",
            "bench/times/",
            "profiler",
        ):
            assert figure in text


def test_what_failed_and_what_qualifies_figures_is_said(full):
    bench = BENCH_DOCUMENT.read(full / "bench" / "cpu.json")
    markdown, html = texts(full)
    assert "digits.fp16.onnx" in section(markdown, "Not measured")
    assert html.index("<h2>Not measured</h2>") < html.index("<h2>The table</h2>")
    for text in (markdown, html):
        assert "digits.fp16.onnx could not be measured." in text
        assert bench.notes[0] in text.replace("\N{NO-BREAK SPACE}", " ")
    for number, note in enumerate(own for file in bench.files for own in file.notes):
        assert f'id="note-{number + 1}"' in html
        assert note in html.replace("\N{NO-BREAK SPACE}", " ")
    assert len(re.findall('href="#note-1"', html)) >= 5  # at the file's name in every table


def test_matrices_show_what_changed_against_the_baseline(full):
    _, html = texts(full)
    bench = BENCH_DOCUMENT.read(full / "bench" / "cpu.json")
    matrices = re.findall(r'<div class="matrix">.*?</table>', html, re.DOTALL)
    assert len(matrices) == len(bench.files)
    assert "baseline.fp32.tflite" in matrices[0]
    assert "moved" not in matrices[0]
    counts = [int(count) for count in re.findall(r'<td class="[rw]\d[^"]*">(\d+)', matrices[0])]
    assert sum(counts) == 500
    changes = re.findall(r"<b>([^<]+)</b>", matrices[3])
    assert changes
    assert sum(int(change.replace("\N{MINUS SIGN}", "-")) for change in changes) == 0


def test_many_classes_are_told_in_pairs_and_an_energy_without_counter_with_its_reason(light):
    enrich(light, classes=40, energy="unavailable", images=2000)
    markdown, html = (path.read_text() for path in write_report(light))
    parsed(html)
    assert '<div class="matrix">' not in html
    assert "40 classes are too many for a matrix" in html
    for text in (markdown, html):
        assert "class 1" in text
        assert "no counter of this machine can be read; run it as root" in text
        assert "Energy per image" not in text


def test_an_older_bench_without_the_new_figures_says_what_is_missing(plain):
    for text in texts(plain):
        missing = "load and first inference, throughput, energy, accuracy on the target"
        assert f"Not measured on cpu: {missing}." in text
        assert "none was measured on cpu" in text
        assert "Energy per image" not in text


def test_times_of_another_file_or_of_a_damaged_document_are_left_out_and_said(light):
    bench = BENCH_DOCUMENT.read(light / "bench" / "cpu.json")
    first, second, third = bench.files[:3]
    write_times(light / "bench", replace(op_times(first), sha256="0" * 64))
    times_path(light / "bench", second.file).write_text("{")
    rows = op_times(third).rows
    write_times(light / "bench", replace(op_times(third), rows=(replace(rows[0], seconds=-1.0), *rows[1:])))
    for text in (path.read_text() for path in write_report(light)):
        assert f"is of an older {first.file}" in text
        assert "is not valid JSON" in text
        assert f"{third.file} was timed on a busy machine" in text
        assert f"Time of {second.file}" not in text


def test_a_bench_that_measured_nothing_has_a_report(light):
    path = light / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    BENCH_DOCUMENT.write(path, replace(bench, files=(), failures=(Failure(bench.files[0].file, "it fell over"),)))
    markdown, html = (path.read_text() for path in write_report(light))
    parsed(html)
    assert "it fell over" in section(markdown, "Not measured")
    assert "Median latency" not in markdown


def test_a_target_without_a_clock_has_sizes_and_memory(light):
    path = light / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    files = tuple(replace(own, measurements=(), memory=MemoryUse(70_000_000, 30_000_000)) for own in bench.files)
    BENCH_DOCUMENT.write(path, replace(bench, files=files))
    markdown, html = (path.read_text() for path in write_report(light))
    parsed(html)
    assert "70.0 MB" in markdown
    assert not (light / "report-latency.svg").exists()
    assert "None" not in html


def test_the_page_is_small_enough_to_send(full):
    """Pictures hold a bounded number of dots and bars, so that its size grows with the files and not with the runs."""
    assert (full / "report.html").stat().st_size < 500_000


def test_a_document_of_the_first_version_is_shown(light):
    golden = Path(__file__).parents[1] / "golden" / "bench_v1.json"
    shutil.copy(golden, light / "bench" / "cpu.json")
    old = BENCH_DOCUMENT.read(golden)
    markdown, html = (path.read_text() for path in write_report(light))
    parsed(html)
    assert old.before.board
    assert old.before.board in section(markdown, f"Machine: {old.target}")
    assert "None" not in html


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A run measured on this machine, a board and an emulated one, while a third was off; not to be changed."""
    run = make_run(tmp_path_factory.mktemp("fleet") / "digits")
    for name in ("baseline", "sliced"):
        shutil.rmtree(run / name)
    bench = enrich(run)
    results = (replace(bench, target="board"), emulated(bench, "emu:pi4"))
    write_fleet(run / "bench", Fleet(results, (failure("attic", "it is <off>"),)))
    write_report(run)
    return run


def test_every_target_has_a_column(fleet):
    markdown, html = texts(fleet)
    parsed(html)
    table = section(markdown, "Every target")
    assert "| File | cpu | board | emu:pi4 (emulated: no time) |" in table
    timing = summarise(fleet).row("digits.onnx").on("cpu")
    cell = f"{format.seconds(timing.median_s.value)}, top-1 {format.percent(timing.top1)}"
    assert f"| digits.onnx | {cell} | {cell} | 5.00 G instr., top-1 {format.percent(timing.top1)} |" in table
    page = html[html.index("<h2>Every target</h2>") :].split("</section>")[0]
    assert html.index("<h2>Every target</h2>") < html.index("<h2>The table</h2>")
    assert '<th scope="col">emu:pi4<small>emulated: no time</small></th>' in page
    assert page.count('data-label="emu:pi4 (emulated)"') == 6


def test_one_target_alone_has_no_such_table(full):
    for text in texts(full):
        assert "Every target" not in text


def test_a_device_that_failed_is_listed(fleet):
    markdown, html = texts(fleet)
    assert "| every file | attic | it is &lt;off&gt; (2025-01-02T03:04:05+00:00) |" in section(markdown, "Not measured")
    assert "it is &lt;off&gt;" in html[html.index("<h2>Not measured</h2>") :].split("</section>")[0]


def test_an_emulated_target_has_counts_and_says_that_it_has_no_time(fleet):
    markdown, html = texts(fleet)
    part = section(markdown, "On emu:pi4")
    assert "**Emulated: no time" in part
    assert "| digits.onnx | 5.00 G | 60.0 % | 750 M |" in part
    page = html[html.index("<h2>On emu:pi4</h2>") :].split("</section>")[0]
    assert "Emulated: no time" in page
    for text in (part, page):
        for word in ("atency", "memory</th>", "Speed-up"):
            assert word not in text
    assert "| 5.00 G instr. |" in section(markdown, "What accuracy costs on emu:pi4")
    assert "Latency on emu:pi4" not in html
    assert "Not measured on emu:pi4" not in html


def test_an_emulated_target_alone_leaves_the_models_table_without_times(light):
    path = light / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    path.unlink()
    write_fleet(light / "bench", Fleet((emulated(bench),)))
    markdown, html = (path.read_text() for path in write_report(light))
    parsed(html)
    assert "Median latency" not in markdown
    assert "| digits.onnx | 5.00 G | 60.0 % | 750 M |" in section(markdown, "On emu:pi4")
    assert "None" not in html
