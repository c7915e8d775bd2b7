import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from device_bench import read_result, write_report, write_result
from runtime import MissingExtraError, RunFolderError

from .searches import write_rounds, write_steps, write_table
from .test_gain import slow_down

VOID = {"meta", "br", "hr", "img", "input", "link"}


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


def test_the_page_is_well_formed_and_asks_for_nothing(run):
    _, path = write_report(run)
    html = path.read_text()
    page = parsed(html)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(reference.startswith("#") for reference in page.references)
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html


def test_both_reports_carry_the_same_figures(run):
    markdown, html = (path.read_text() for path in write_report(run))
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


def test_names_from_outside_are_escaped(run):
    markdown, html = (path.read_text() for path in write_report(run))
    assert "<co>" not in html
    assert "Example Core 9 &amp; &lt;co&gt;" in html
    assert "vit\\_tiny \\| &lt;sliced&gt;" in markdown


def test_rows_of_the_markdown_tables_have_as_many_cells_as_their_heads(run):
    write_rounds(run)
    markdown = write_report(run)[0].read_text()
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert len(tables) == 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
        assert re.fullmatch(r"[|:-]+", table.splitlines()[1])


@pytest.mark.parametrize("search", [None, write_rounds, write_steps])
def test_pictures_of_the_markdown_stand_beside_it(run, search):
    if search:
        search(run)
    markdown = write_report(run)[0].read_text()
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", markdown)
    found = ["report-search.svg"] if search else []
    assert pictures == ["report-latency.svg", *found, "report-widths.svg", "report-training.svg"]
    for picture in pictures:
        root = ElementTree.parse(run / picture).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_the_same_folder_gives_the_same_bytes(run):
    write_rounds(run)
    write_report(run)
    first = {path.name: path.read_bytes() for path in run.glob("report*")}
    for path in run.glob("report*"):
        path.unlink()
    write_report(run)
    assert {path.name: path.read_bytes() for path in run.glob("report*")} == first
    assert len(first) == 6


@pytest.mark.parametrize("search", [write_rounds, write_steps])
def test_every_colour_of_a_picture_follows_the_page(run, search):
    search(run)
    html = write_report(run)[1].read_text()
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


def test_a_second_target_has_a_table_of_its_own(run):
    bench = read_result(run / "bench" / "cpu.json")
    write_result(run / "bench" / "board.json", replace(bench, target="board"))
    markdown, html = (path.read_text() for path in write_report(run))
    assert "## On board" in markdown
    assert "<h2>On board</h2>" in html


def test_an_unsettled_warm_up_is_said(run):
    path = run / "bench" / "cpu.json"
    bench = read_result(path)
    unsettled = (replace(bench.files[1].latency, steady=False),)
    files = (bench.files[0], replace(bench.files[1], measurements=unsettled), *bench.files[2:])
    write_result(path, replace(bench, files=files))
    for report in write_report(run):
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


def test_a_search_over_trees_has_a_figure_and_a_row_per_round(run):
    write_rounds(run)
    markdown, html = (path.read_text() for path in write_report(run))
    parsed(html)
    rows = [line for line in markdown.splitlines() if re.match(r"\| [12] \|", line)]
    assert rows == [
        "| 1 | 5 | 2 | 1 | 525 | +0.1043 | 86.0 % | 80.0 % | mlp 4, embed | – |",  # noqa: RUF001
        "| 2 | 4 | 1 | 0 | 325 | +0.2283 | 82.0 % | 70.0 % | mlp 4 | – |",  # noqa: RUF001
    ]
    for text in ("mlp 4, embed", "+0.1043", "at most what is drawn", "search/iteration-*/journal.jsonl"):
        assert text in html
        assert text.replace("*", "\\*") in markdown
    for text in ("round 1", "round 2", "chosen", "stopped early: at most", "best for its cost", "parameters left"):
        assert text in html


def test_a_search_along_one_path_rings_its_end(run):
    write_rounds(run)
    first, _ = sorted((run / "search").glob("*/journal.jsonl"))
    assert all("what the round chose, the highest" in path.read_text() for path in write_report(run))
    first.write_text(first.read_text().replace('"settings": {', '"settings": {"search": "greedy", '))
    assert all("Ringed: the end of the path that was followed." in path.read_text() for path in write_report(run))


def test_a_search_in_one_go_shows_what_it_gave_up(run):
    write_steps(run)
    html = write_report(run)[1].read_text()
    parsed(html)
    assert "least importance per cost saved first: mlp 2, head 1" in html
    assert "Importance lost, summed" in html
    assert "MACs left, % of the baseline" in html
    write_steps(run, "milp", "latency@cpu=0.9")
    html = write_report(run)[1].read_text()
    assert "by integer programming" in html
    assert "latency left, ms" in html


def test_a_damaged_journal_costs_its_figure_alone(run):
    write_rounds(run)
    path = run / "search" / "iteration-02" / "journal.jsonl"
    path.write_text(path.read_text().replace('"op": "look"', '"op": "<guess>"'))
    markdown, html = (path.read_text() for path in write_report(run))
    parsed(html)
    assert not (run / "report-search.svg").exists()
    for text in (markdown, html):
        assert "The search is not shown: " in text
        assert "no operation of a search" in text
        assert "<guess>" not in text
        assert "Training loss" in html


def test_the_promise_of_macs_stands_beside_what_was_measured(run):
    for text in (path.read_text() for path in write_report(run)):
        assert "Promised by MACs" in text
        assert "2.45×" in text  # noqa: RUF001
        assert "latency table" not in text
        assert "less than half" not in text
    write_table(run)
    for text in (path.read_text() for path in write_report(run)):
        assert "Predicted by the latency table" in text
        assert "1.31×" in text  # noqa: RUF001
        assert "search/latency.json" in text


def test_a_broken_promise_is_said_once(run):
    slow_down(run, "digits.fp32.tflite", 0.97)
    for text in (path.read_text() for path in write_report(run)):
        assert text.count("Pruning bought less than half") == 1
        assert "--cost latency@cpu" in text
