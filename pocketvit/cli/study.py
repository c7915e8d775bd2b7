"""The command ``study``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import fail, print_json, say

if TYPE_CHECKING:
    from pocketvit.study.cells import Cell
    from pocketvit.study.definition import Study
    from pocketvit.study.folder import StudyFolder
    from pocketvit.study.results.collect import StudyResult


def study(
    file: Annotated[Path, typer.Argument(help="The study, a TOML file.")],
    runs: Annotated[Path, typer.Option(help="Folder of all runs; the study gets one of its name in it.")] = Path(
        "runs"
    ),
    dry: Annotated[bool, typer.Option("--list", help="List the cells and how far they are; do nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Make cells anew that were made with other settings.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed before; else it stays as it is.")
    ] = False,
    ray: Annotated[
        str,
        typer.Option(help="Make the cells on a Ray cluster: its address, auto, or local for one on this machine."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Make, measure and compare methods x models x data x seeds x budgets, as a TOML file says.

    Can be stopped at any time, and goes on where it was. A cell that fails is a row of the report; exit code 1.
    """
    from pocketvit.study.cells import cells_of, check_cells
    from pocketvit.study.conduct import Orders, conduct
    from pocketvit.study.definition import read_study
    from pocketvit.study.folder import StudyFolder
    from pocketvit.study.measuring import devices_of
    from pocketvit.study.results.report import write_report

    from .console import shown

    told = read_study(file)
    root = runs / told.name
    try:
        if dry:
            cells = cells_of(told)
            devices_of(told)
            with shown() as progress:
                check_cells(told, cells, progress)
            _list(told, cells, StudyFolder(root), as_json)
            return
        with shown() as progress:
            result = conduct(told, root, Orders(force, retry_failed, ray), progress, retold=write_report)
    except KeyboardInterrupt:
        fail("Stopped. The same command goes on where it was.", 130)
    _tell(result, root, as_json)


def _list(study: "Study", cells: "tuple[Cell, ...]", folder: "StudyFolder", as_json: bool) -> None:
    from pocketvit.study.conduct import workers_of
    from pocketvit.study.folder import CELL_DOCUMENT
    from pocketvit.study.results.collect import command_of

    states = [CELL_DOCUMENT.read_if_there(folder.state(cell.name)) for cell in cells]
    told = [state.outcome if state else "to do" for state in states]
    shared = {cell.baseline for cell in cells if cell.baseline and [c.baseline for c in cells].count(cell.baseline) > 1}
    if as_json:
        rows = [
            {
                **{name: getattr(cell, name) for name in ("method", "model", "data", "budget", "seed")},
                **{"cell": cell.name, "state": state, "command": command_of(cell, folder)},
            }
            for cell, state in zip(cells, told, strict=True)
        ]
        print_json("pocketvit.study-cells", {"study": study.name, "folder": str(folder.root), "cells": rows})
        return
    from rich.table import Table

    from .console import stdout_console

    table = Table("cell", "method", "model", "data", "budget", "seed", "state", highlight=False)
    for cell, state in zip(cells, told, strict=True):
        table.add_row(cell.name, cell.method, cell.model, cell.data, cell.budget or "–", str(cell.seed), state)  # noqa: RUF001 - the sign is meant
    stdout_console().print(table)
    side = f"{workers_of(study)} at a time, {study.threads} thread(s) each"
    say(f"{len(cells)} cells, {side}; {len(shared)} fine-tuned models that several start from. Commands: --list --json")


def _tell(result: "StudyResult", root: Path, as_json: bool) -> None:
    from pocketvit.study.results.writing import body

    if as_json:
        print_json("pocketvit.study", body(result))
    else:
        from pocketvit.study.results.tables import study_tables

        from .console import stdout_console

        console = stdout_console()
        console.print(*study_tables(result, console.width), sep="\n")
        say(f"Report in {root / 'report.html'}, table in {root / 'table.csv'}")
    missing = [f"{own.cell}: {own.error}" for own in result.failed]
    missing += [f"{what} was not measured: {why}" for what, why in result.unmeasured]
    if missing:
        fail("\n".join(missing), 1)
