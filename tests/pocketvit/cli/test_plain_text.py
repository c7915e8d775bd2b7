"""Names from outside are printed as they are: no brackets are swallowed, and no name steers the terminal."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.text import Text

import pocketvit
from device_bench.report.summary import summarise
from device_bench.targets.finding import Finding
from pocketvit.cli.app import COMMANDS, app
from pocketvit.cli.tables.results import summary_tables
from pocketvit.cli.tables.targets import doctor_table
from pocketvit.console import PlainConsole, stdout_console
from pocketvit.jobs import doctor
from pocketvit.jobs.predicting import Predictions
from pocketvit.output import fail, say
from pocketvit.progress import ProgressBars, progress_lines
from runtime import Prediction
from tests.device_bench.conftest import make_run
from tests.pocketvit.conftest import Command

NAMES = ["[red]", "[/]", "[bold]cat[/bold]", "a[0]", ":cat:", "[link=x]", "\\[x]", "x]"]


def printed(*renderables: Any) -> str:
    console = PlainConsole(file=io.StringIO(), width=200, color_system=None)
    console.print(*renderables, sep="\n")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("name", NAMES)
def test_classes_and_files_are_printed_as_they_are(name: str) -> None:
    logits = np.array([2.0, 1.0], dtype=np.float32)
    prediction = Prediction(name=name, index=0, confidence=0.7, logits=logits)
    outcome = Predictions((Path("pictures") / f"{name}.png",), (prediction,), (1,), (name, f"other {name}"))
    text = printed(outcome.table())
    assert f"pictures/{name}.png" in text
    assert f"│ {name} " in text
    assert f"other {name}" in text


@pytest.mark.parametrize("name", NAMES)
def test_runs_are_printed_as_they_are(tmp_path: Path, name: str) -> None:
    summary = replace(summarise(make_run(tmp_path / "digits")), name=name)
    rows = tuple(replace(row, name=f"{name}{i}.tflite") for i, row in enumerate(summary.rows))
    text = printed(*summary_tables(replace(summary, rows=rows), 200))
    assert f"{name}, timed on" in text or text.splitlines()[0].rstrip() == name
    assert all(row.name in text for row in rows)


def test_the_doctor_says_which_extra_to_install(pocketvit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    extras = ("litert", "onnx", "compress", "export", "bench", "energy")
    findings = [Finding("packages", extra, None, f"pip install 'pocketvit[{extra}]'") for extra in extras]
    assert all(f"pip install 'pocketvit[{extra}]'" in printed(doctor_table(findings)) for extra in extras)
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    answer = pocketvit("doctor")
    assert all(f"pip install 'pocketvit[{extra}]'" in answer.out for extra in extras)


@pytest.mark.parametrize("name", NAMES)
def test_errors_and_notes_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], name: str) -> None:
    say(f"Files in {name}")
    with pytest.raises(SystemExit):
        fail(f"{name} does not exist", 2)
    assert capsys.readouterr().err == f"Files in {name}\nerror: {name} does not exist\n"


@pytest.mark.parametrize("name", NAMES)
def test_stages_and_notes_of_bars_are_printed_as_they_are(name: str) -> None:
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=160, color_system=None)
    bars = ProgressBars(console)
    bars.report(f"check {name}", 1, 3, f"reading {name}")
    assert f"check {name}" in printed(bars.get_renderable())
    assert f"reading {name}" in printed(bars.get_renderable())
    progress_lines(console.print)(f"check {name}", 1, 3, f"reading {name}")
    assert f"check {name}: 1/3  reading {name}" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["\x1b[31mred", "\x1b]0;title\x07", "a\rb", "\x9b2J", "safe\u202egnp.exe", "\x08\x08"])
def test_no_name_steers_the_terminal(capsys: pytest.CaptureFixture[str], name: str) -> None:
    spelt = re.sub(r"[\x00-\x1f\x7f-\x9f\u202e]", lambda m: m[0].encode("unicode_escape").decode(), name)
    table = doctor_table([Finding("a", name, name, None)])
    assert spelt in printed(name)
    assert spelt in printed(table)
    for text in (printed(name), printed(Text(name)), printed(table)):
        assert not set(name) & set(text) & {"\x1b", "\x07", "\x08", "\r", "\x9b", "\u202e"}
    say(name)
    assert capsys.readouterr().err == f"{spelt}\n"


def test_stdout_has_styles_on_a_terminal_and_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stdout_console().print(doctor_table([Finding("area", "[red]what", None, "[x]")]))
    text = terminal.getvalue()
    assert "[red]what" in text
    assert "\x1b[33m" in text


def test_no_help_text_is_read_as_markup() -> None:
    seen = 0
    for name in [*(name for name in COMMANDS if name != "targets"), "targets list", "targets check"]:
        console = PlainConsole(file=io.StringIO(), width=400, color_system=None)
        app.help_print(name.split(), console=console)
        page = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
        command = app
        for word in name.split():
            command = command[word]
        for own in command.assemble_argument_collection():
            seen += 1
            assert own.parameter.help in page
    assert seen > 100


def test_every_console_of_the_program_is_a_plain_one() -> None:
    places = [path for path in Path(pocketvit.__file__).parent.rglob("*.py") if path.name != "console.py"]
    assert len(places) > 20
    for path in places:
        assert not re.search(r"\bConsole\(|from_markup|rich\.print|from rich import print", path.read_text()), path
