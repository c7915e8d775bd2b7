"""The command ``study``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pocketvit.output import fail, print_json, say

from .common import RUNS, Json, flag

if TYPE_CHECKING:
    from pocketvit.study.cells import StudyCell
    from pocketvit.study.definition import Study
    from pocketvit.study.folder import StudyFolder
    from pocketvit.study.results.collect import StudyResult


def study(
    file: Annotated[Path, Parameter(help="TOML file of the study.")],
    /,
    *,
    runs: Annotated[Path, Parameter(help="Folder of all runs, in which the study has a folder of its name.")] = RUNS,
    dry: Annotated[bool, flag("List the cells and their state, and do nothing.", "--list")] = False,
    force: Annotated[bool, flag("Make cells anew that were made with other settings.")] = False,
    retry_failed: Annotated[bool, flag("Try failed cells again; otherwise they stay failed.")] = False,
    ray: Annotated[
        str,
        Parameter(help="Make the cells on a Ray cluster: its address, auto, or local for one on this machine."),
    ] = "",
    as_json: Json = False,
) -> None:
    """Make, measure and compare methods x models x data x seeds x budgets, from a TOML file.

    A study can be stopped at any time and goes on where it was. A cell that fails is a row of the report: exit code 1.
    """
    from pocketvit.progress import show_progress
    from pocketvit.study.cells import cells_of, check_cells
    from pocketvit.study.conduct import Orders, conduct
    from pocketvit.study.definition import read_study
    from pocketvit.study.folder import StudyFolder
    from pocketvit.study.measuring import devices_of
    from pocketvit.study.results.report import write_study_report

    asked = read_study(file)
    root = runs / asked.name
    try:
        if dry:
            cells = cells_of(asked)
            devices_of(asked)
            with show_progress() as progress:
                check_cells(asked, cells, progress)
            _list(asked, cells, StudyFolder(root), as_json)
            return
        with show_progress() as progress:
            result = conduct(asked, root, Orders(force, retry_failed, ray), progress, write_report=write_study_report)
    except KeyboardInterrupt:
        fail("Stopped. The same command goes on where it was.", 130)
    _show(result, root, as_json)


def _list(study: Study, cells: Sequence[StudyCell], folder: StudyFolder, as_json: bool) -> None:
    from pocketvit.study.conduct import workers_of
    from pocketvit.study.folder import CELL_DOCUMENT
    from pocketvit.study.results.collect import command_of

    found = [CELL_DOCUMENT.read_if_there(folder.state(cell.name)) for cell in cells]
    states = [state.outcome if state else "to do" for state in found]
    shared = {cell.baseline for cell in cells if cell.baseline and [c.baseline for c in cells].count(cell.baseline) > 1}
    if as_json:
        rows = [
            {
                **{name: getattr(cell, name) for name in ("method", "model", "data", "budget", "seed")},
                **{"cell": cell.name, "state": state, "command": command_of(cell, folder)},
            }
            for cell, state in zip(cells, states, strict=True)
        ]
        print_json("pocketvit.study-cells", {"study": study.name, "folder": str(folder.root), "cells": rows})
        return
    from rich.table import Table

    from pocketvit.console import stdout_console

    table = Table("cell", "method", "model", "data", "budget", "seed", "state", highlight=False)
    for cell, state in zip(cells, states, strict=True):
        table.add_row(cell.name, cell.method, cell.model, cell.data, cell.budget or "–", str(cell.seed), state)  # noqa: RUF001 - the sign is meant
    stdout_console().print(table)
    side = f"{workers_of(study)} at a time, {study.threads} thread(s) each"
    say(f"{len(cells)} cells, {side}; {len(shared)} fine-tuned models that several start from. Commands: --list --json")


def _show(result: StudyResult, root: Path, as_json: bool) -> None:
    from pocketvit.study.results.writing import body

    if as_json:
        print_json("pocketvit.study", body(result))
    else:
        from pocketvit.cli.tables.study import study_tables
        from pocketvit.console import stdout_console

        console = stdout_console()
        console.print(*study_tables(result, console.width), sep="\n")
        say(f"Report in {root / 'report.html'}, table in {root / 'table.csv'}")
    missing = [f"{own.cell}: {own.error}" for own in result.failed]
    missing += [f"{what} was not measured: {why}" for what, why in result.unmeasured]
    if missing:
        fail("\n".join(missing), 1)
