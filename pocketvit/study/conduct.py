"""Conducts a study: its cells in parallel, then the work that needs the machine alone, then the report."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from pocketvit.pipeline.job import prepare, profiled_target
from pocketvit.pipeline.profiling import profile
from pocketvit.pipeline.runfolder import RunFolder
from pocketvit.pipeline.stage import check_written_bytes, export_copies, written_bytes
from pocketvit.study.results.collect import StudyResult, collect
from pocketvit.study.work.pools import LocalPool, Pool
from pocketvit.study.work.process import StartProcess, Work, WorkOutcome, WorkStep, do, start_process
from pocketvit.study.work.schedule import carry_out
from runtime import LATENCY_DOCUMENT, LatencyTable, Progress, silent, storage_errors

from .answers import FILE as ANSWERS
from .answers import FileAnswers, read_answers
from .baselines import baseline_settings, begin
from .cells import StudyCell, cells_of, check_cells
from .definition import Study
from .folder import CELL_DOCUMENT, StudyFolder, claim_study, write_state
from .measuring import (
    MEASURED_DOCUMENT,
    BenchCommands,
    bench_words,
    complete,
    devices_of,
    is_measured,
    read_measured,
    wanted,
)


@dataclass(frozen=True)
class Orders:
    """Options of conducting a study.

    Attributes:
        force: make cells anew that were made with other settings.
        retry_failed: try failed cells and measurements again.
        ray: address of a Ray cluster, or ``local``; empty makes all cells on this machine.
    """

    force: bool = False
    retry_failed: bool = False
    ray: str = ""


def conduct(
    study: Study,
    root: Path,
    orders: Orders,
    progress: Progress = silent,
    *,
    starter: StartProcess = start_process,
    write_report: Callable[[StudyResult, Path], object] = lambda result, root: None,
) -> StudyResult:
    """Conducts a study, or continues it.

    Args:
        study: the study.
        root: its folder.
        orders: how to conduct it.
        progress: called as cells and targets are done.
        starter: starts a process.
        write_report: writes the report into the study's folder.

    Raises:
        PocketVitError: the study is invalid, or its folder cannot be written; a failed cell is a row of the report.
        KeyboardInterrupt: the user stopped the study; every process that it started has ended.
    """
    cells = cells_of(study)
    devices_of(study)
    plans = check_cells(study, cells, progress)
    with claim_study(root, cells, force=orders.force) as folder:
        todo = _todo(folder, cells, orders)
        if todo:
            check_written_bytes(
                root, sum(written_bytes(plans[cell.name], 1 + export_copies(cell.formats)) for cell in todo)
            )
        tables = measure_latency_tables(todo, progress)
        made = _make(study, folder, (cells, todo), tables, orders, progress, starter)
        _finish_alone(folder, [cell for cell in todo if cell.timed_export and cell.name in made], progress, starter)
        unmeasured = _measure(study, folder, cells, orders, progress, starter)
        result = collect(study, folder, cells)
        result = replace(result, unmeasured=(*result.unmeasured, *unmeasured))
        write_report(result, root)
    return result


def _todo(folder: StudyFolder, cells: Sequence[StudyCell], orders: Orders) -> list[StudyCell]:
    """Returns the cells that are not done, without failed ones that are not retried."""
    found = []
    for cell in cells:
        state = CELL_DOCUMENT.read_if_there(folder.state(cell.name))
        done = state is not None and state.outcome == "done" and (folder.run(cell.name) / ANSWERS).is_file()
        failed = state is not None and state.outcome == "failed"
        if not (done or (failed and not orders.retry_failed)):
            found.append(cell)
    return found


def measure_latency_tables(
    cells: Sequence[StudyCell],
    progress: Progress = silent,
    *,
    profiler: Callable[..., tuple[LatencyTable, Path]] = profile,
) -> dict[str, LatencyTable]:
    """Returns the latency tables that cells need, by cell; measures missing ones while nothing else runs.

    Args:
        cells: cells of the study.
        progress: called as files are timed.
        profiler: measures or reads a table.

    Raises:
        PocketVitError: see ``profile``.
    """
    found: dict[str, LatencyTable] = {}
    known: dict[str, LatencyTable] = {}
    for cell in cells:
        settings, target = cell.settings, profiled_target(cell.settings)
        if target is None or cell.lesson is not None:
            continue
        asked = replace(baseline_settings(settings), seed=0)
        key = repr((asked, target, settings.latency_precision, settings.latency_threads, settings.profiles))
        if key not in known:
            how = {"target": target, "precision": settings.latency_precision, "threads": settings.latency_threads}
            known[key], _ = profiler(prepare(settings).plan, Path(settings.profiles), **how, progress=progress)
        found[cell.name] = known[key]
    return found


def _make(
    study: Study,
    folder: StudyFolder,
    all_and_todo: tuple[Sequence[StudyCell], Sequence[StudyCell]],
    tables: Mapping[str, LatencyTable],
    orders: Orders,
    progress: Progress,
    starter: StartProcess,
) -> set[str]:
    """Makes cells in parallel; returns the names of those that were made."""
    cells, todo = all_and_todo
    works = _works(study, folder, cells, todo)
    by_name = {cell.name: cell for cell in todo}
    settings = {folder.baseline(cell.baseline): cell.settings for cell in todo if cell.baseline}
    needs = {work.name: work.needs for work in works}
    made: set[str] = set()

    def ready(work: Work) -> None:
        cell = by_name.get(work.name)
        if cell is None:
            begin(folder.run(work.name), baseline_settings(settings[work.name]))
            return
        needed = needs[cell.name]
        write_state(folder, cell, "begun", baseline=needed)
        begin(folder.run(cell.name), cell.settings, cell.lesson, folder.run(needed) / "baseline" if needed else None)
        place = RunFolder(folder.run(cell.name)).latency
        if cell.name in tables and not place.is_file():  # the machine that makes the cell may have none
            LATENCY_DOCUMENT.write(place, tables[cell.name])

    ended = 0

    def done(outcome: WorkOutcome) -> None:
        nonlocal ended
        cell = by_name.get(outcome.name)
        if not outcome.stopped:
            ended += 1
        if cell is not None and outcome.error is not None:
            write_state(folder, cell, "failed", outcome.error, outcome.where)
        elif cell is not None and not outcome.stopped:
            made.add(cell.name)
            if not cell.timed_export:
                write_state(folder, cell, "done", None, outcome.where)
        progress("cells", ended, len(works), f"{outcome.name} {'failed' if outcome.error else 'done'}")

    if works:
        progress("cells", 0, len(works))
        with closing(_pool(study, folder, orders, starter)) as pool:
            carry_out(works, pool, ready, done)
    return made


def _pool(study: Study, folder: StudyFolder, orders: Orders, starter: StartProcess) -> Pool:
    if orders.ray:
        from pocketvit.study.work.over_ray import RayPool

        return RayPool(folder.root, orders.ray, study.threads, study.workers)
    return LocalPool(folder.root, workers_of(study), starter)


def workers_of(study: Study) -> int:
    """Returns the number of cells that are made at a time on this machine."""
    return study.workers or max(1, (os.cpu_count() or 1) // study.threads)


def _works(study: Study, folder: StudyFolder, cells: Sequence[StudyCell], todo: Sequence[StudyCell]) -> list[Work]:
    """Returns the units of work: the missing shared models, then the cells."""
    keys = [cell.baseline for cell in cells if cell.baseline]
    shared = {key for key in keys if keys.count(key) > 1}
    works: dict[str, Work] = {}
    for cell in todo:
        if cell.baseline in shared and cell.baseline is not None:
            name = folder.baseline(cell.baseline)
            if not (folder.run(name) / "baseline" / "metrics.json").is_file():
                works[name] = Work(name, (WorkStep("fine-tune"),), study.threads)
    for cell in todo:
        needs = folder.baseline(cell.baseline) if cell.baseline in shared and cell.baseline is not None else ""
        rest = () if cell.timed_export else (WorkStep("export", cell.export_words), WorkStep("answer"))
        works[cell.name] = Work(cell.name, (WorkStep(cell.command, cell.words), *rest), study.threads, needs)
    return list(works.values())


def _finish_alone(folder: StudyFolder, cells: Sequence[StudyCell], progress: Progress, starter: StartProcess) -> None:
    """Exports the cells whose recipes are chosen by time, one after another."""
    for position, cell in enumerate(cells):
        progress("export", position, len(cells), cell.name)
        work = Work(cell.name, (WorkStep("export", cell.export_words), WorkStep("answer")), 1)
        outcome = do(work, folder.root, threading.Event(), platform.node(), starter=starter)
        write_state(folder, cell, "failed" if outcome.error else "done", outcome.error, outcome.where)
    if cells:
        progress("export", len(cells), len(cells))


def _measure(
    study: Study,
    folder: StudyFolder,
    cells: Sequence[StudyCell],
    orders: Orders,
    progress: Progress,
    starter: StartProcess,
) -> list[tuple[str, str]]:
    """Measures the files of all cells, one target after another, unless the same files were measured before.

    Returns:
        Targets whose measurement gave no result, each with the reason.
    """
    files: list[FileAnswers] = []
    paths, unmeasured = [], []
    for cell in cells:
        state = CELL_DOCUMENT.read_if_there(folder.state(cell.name))
        if state is not None and state.outcome == "done":
            own = wanted(study, read_answers(folder.run(cell.name)).files)
            files += own
            paths += [folder.run(cell.name) / "artifacts" / one.file for one in own]
    devices = devices_of(study) if files else ()
    with storage_errors(folder.bench):
        folder.bench.mkdir(exist_ok=True)
    for position, device in enumerate(devices):
        progress("measure", position, len(devices), f"{len(files)} files on {device.label}")
        words = bench_words(study.measure, device, paths, folder.bench)
        before = read_measured(folder.measured)
        again = orders.retry_failed and not complete(folder.bench, device)
        if again or not is_measured(folder.bench, device, files, words, before):
            error = _alone(words, folder, starter)
            now = BenchCommands({**before.commands, device.label: words})
            MEASURED_DOCUMENT.write(folder.measured, now)
            if error and not is_measured(folder.bench, device, files, words, now):
                unmeasured.append((device.label, error))
    if devices:
        progress("measure", len(devices), len(devices))
    return unmeasured


def _alone(words: tuple[str, ...], folder: StudyFolder, starter: StartProcess) -> str:
    """Runs a command alone; returns its error, empty if it succeeded."""
    work = Work(".", (WorkStep(words[0], words[1:], plain=True),), 1)
    return do(work, folder.root, threading.Event(), platform.node(), starter=starter).error or ""
