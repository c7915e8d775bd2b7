"""Renders the checks of a gate as JUnit XML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from device_bench import format
from device_bench.columns import Column
from device_bench.report.render.markdown import escape, grid

from .judge import Gate, LimitCheck

_FORBIDDEN = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF)}


def verdict_of(check: LimitCheck) -> str:
    """Returns ``ok``, ``FAILED`` or ``not compared``."""
    if check.passed is None:
        return "not gated" if check.limit == "none" else "not compared"
    return "ok" if check.passed else "FAILED"


def value_text(check: LimitCheck, value: float | None) -> str:
    """Returns a value of a check as people read it."""
    if value is None:
        return format.MISSING
    if check.unit == "seconds":
        return format.seconds(value)
    if check.unit == "share":
        return f"{100 * value:.2f} %"
    if check.unit == "cosine":
        return f"{value:.4f}"
    return format.size(round(value)) if check.unit == "bytes" else format.count(round(value))


def change_text(check: LimitCheck) -> str:
    """Returns by how much the new value differs, as people read it."""
    if check.base is None or check.new is None:
        return format.MISSING
    if check.unit == "share":
        return format.points(check.base, check.new)
    if check.base == check.new:
        return "±0"
    if check.unit == "cosine":
        return f"{check.new - check.base:+.4f}".replace("-", "\N{MINUS SIGN}")
    if check.base == 0:
        return f"+{check.new:g}"
    text = f"{100 * (check.new - check.base) / check.base:+.1f} %"
    return text.replace("-", "\N{MINUS SIGN}")


def junit(gates: Sequence[Gate]) -> bytes:
    """Returns the gates as JUnit XML: a suite for each file, a case for each limit."""
    root = ElementTree.Element("testsuites", name="pocketvit gate")
    for gate in gates:
        failed = sum(check.passed is False for check in gate.checks)
        skipped = sum(check.passed is None for check in gate.checks)
        counts = {"tests": str(len(gate.checks)), "failures": str(failed), "errors": "0", "skipped": str(skipped)}
        suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(gate.new), **counts})
        for check in gate.checks:
            case = ElementTree.SubElement(
                suite, "testcase", classname=_xml(f"gate.{gate.new}"), name=_xml(check.metric)
            )
            text = _xml(_sentence(check))
            if check.passed is None:
                ElementTree.SubElement(case, "skipped", message=text)
            elif not check.passed:
                ElementTree.SubElement(case, "failure", message=text, type="limit").text = text
    ElementTree.indent(root)
    data: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


CHECK_COLUMNS: tuple[Column[LimitCheck], ...] = (
    Column("base", lambda check: value_text(check, check.base)),
    Column("new", lambda check: value_text(check, check.new)),
    Column("change", lambda check: change_text(check)),
    Column("limit", lambda check: check.limit),
    Column("verdict", lambda check: verdict_of(check), words=True),
    Column("", lambda check: check.note, words=True),
)


def gate_markdown(gates: Sequence[Gate]) -> str:
    """Returns the gates as Markdown, such as a pull request shows."""
    parts = []
    for gate in gates:
        rows = []
        for check in gate.checks:
            cells = [escape(column.cell(check).value) for column in CHECK_COLUMNS]
            if check.passed is False:
                cells[4] = f"**{cells[4]}**"
            rows.append([escape(check.metric), *cells])
        parts += [
            f"### {escape(gate.new)}: {'passed' if gate.passed else 'FAILED'}",
            f"Against {'the stored ' if gate.against == 'baseline' else ''}{escape(gate.base)}.",
            grid(
                ["metric", *(column.heading for column in CHECK_COLUMNS)],
                [True, *(column.words for column in CHECK_COLUMNS)],
                rows,
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _sentence(check: LimitCheck) -> str:
    text = f"{check.metric}: {value_text(check, check.base)} -> {value_text(check, check.new)}, limit {check.limit}"
    return f"{text}; {check.note}" if check.note else text


def _xml(text: str) -> str:
    """Returns text without the control characters that XML cannot hold."""
    return text.translate(_FORBIDDEN).encode("utf-8", "replace").decode()
