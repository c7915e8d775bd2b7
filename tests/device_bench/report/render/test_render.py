"""A report as data, rendered as Markdown and as HTML."""

import pytest

from device_bench.columns import Cell, Column, split_columns
from device_bench.report.render.document import (
    Bullets,
    Fold,
    Footnotes,
    Heading,
    Paragraph,
    ReportPage,
    Section,
    Table,
    TableRow,
    Tile,
    table,
)
from device_bench.report.render.html import html
from device_bench.report.render.markdown import escape, markdown

HOSTILE = "<b>a|b</b> [x](http://example.org) `c` *d*"


def document(*blocks):
    return ReportPage("Kind", "Name", "It is 3 ms fast.", (Section("One", blocks),), "The end.")


def test_a_column_without_a_figure_and_a_row_without_any_are_left_out():
    columns = (
        Column("Half", lambda row: row or None, lambda value: split_columns(f"{value} [1, 2]")),
        Column("None", lambda row: None),
        Column("Refused", lambda row: "x", lambda value: Cell("unavailable", known=False)),
    )
    made = table("Row", columns[:2], [0, 3], str)
    assert [heading.text for heading in made.headings] == ["Half"]
    assert made.rows == (TableRow("3", (Cell("3", "[1, 2]", joined=True),)),)
    assert table("Row", columns[1:], [0, 3], str) is None


def test_text_from_outside_is_no_markup():
    footnotes = Footnotes("n", ((1, HOSTILE, HOSTILE),))
    one = Table(HOSTILE, (Heading(HOSTILE),), (TableRow(HOSTILE, (Cell(HOSTILE, HOSTILE),)),), footnotes)
    parts = (Paragraph(HOSTILE), Bullets((HOSTILE,)), one, footnotes, Fold(HOSTILE, one))
    page, text = html(document(*parts)), markdown(document(*parts))
    assert "<b>a" not in page
    assert "<b>a" not in text
    assert "](http" not in text.replace("\\]", "")
    assert "`c`" not in text.replace("\\`", "")
    for line in text.splitlines():
        if line.startswith("|") and "---" not in line:
            assert line.replace("\\|", "").count("|") == 3


def test_an_interval_stays_readable_and_a_link_does_not():
    assert escape("6.16 ms [6.13, 6.18]") == "6.16 ms [6.13, 6.18]"
    assert escape("[a](b)") == "[a\\](b)"


def test_lines_of_code_are_kept_as_they_are():
    fold = document(Fold("Commands", code=("pocketvit run --a_b <c>",)))
    assert "    pocketvit run --a_b <c>\n" in markdown(fold)
    assert "<code>pocketvit run --a_b &lt;c&gt;</code>" in html(fold)


def test_no_line_ends_between_a_number_and_its_unit():
    page = html(document(Paragraph("It took 3.5 ms in float32 weights, 2× [1.9, 2.1].")))  # noqa: RUF001
    assert "3.5\N{NO-BREAK SPACE}ms in float32 weights, 2×\N{NO-BREAK SPACE}[1.9" in page  # noqa: RUF001


@pytest.mark.parametrize("render", [html, markdown])
def test_headline_figures_are_in_both(render):
    own = ReportPage("Kind", "Name", "Text.", (), "End.", (Tile("Size", "−50 %", "2 MB → 1 MB"),))  # noqa: RUF001
    assert "2 MB → 1 MB" in render(own)
