import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from device_bench import read_result, write_report, write_result
from runtime import MissingExtraError, RunFolderError

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
    markdown = write_report(run)[0].read_text()
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert len(tables) == 6
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
        assert re.fullmatch(r"[|:-]+", table.splitlines()[1])


def test_pictures_of_the_markdown_stand_beside_it(run):
    markdown = write_report(run)[0].read_text()
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", markdown)
    assert pictures == ["report-latency.svg", "report-widths.svg", "report-training.svg"]
    for picture in pictures:
        root = ElementTree.parse(run / picture).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_the_same_folder_gives_the_same_bytes(run):
    write_report(run)
    first = {path.name: path.read_bytes() for path in run.glob("report*")}
    for path in run.glob("report*"):
        path.unlink()
    write_report(run)
    assert {path.name: path.read_bytes() for path in run.glob("report*")} == first
    assert len(first) == 5


def test_every_colour_of_a_picture_follows_the_page(run):
    html = write_report(run)[1].read_text()
    pictures = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--after)" in pictures
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
