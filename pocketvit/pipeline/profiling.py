"""The latency table of an architecture on a target: measured once, kept, and continued after a stop."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from device_bench.latency_table.anchor import anchored, scaled, timed
from device_bench.latency_table.files import Timed, part_depth, parts_to_time, wholes_to_time
from device_bench.latency_table.fit import Conditions, fit_table
from device_bench.latency_table.profile_times import TIMES_JOURNAL, read_profile_times, time_line
from device_bench.machine.state import machine_state
from device_bench.targets.bench import time_together
from device_bench.timing.stats import percentile
from export.formats.tflite import timing_bytes
from export.quantise.recipes import DYNAMIC, STATIC_ATTENTION, Recipe
from runtime import (
    LATENCY_DOCUMENT,
    LatencyPrecision,
    LatencyTable,
    PlanError,
    Progress,
    ShapePlan,
    UnsupportedTargetError,
    encode,
    silent,
    storage_errors,
)
from runtime.formats import TFLITE

_FILES_AT_ONCE = 32

_FORMAT = 5
"""Format of tables, journals and timed files; another format has another file name."""


@dataclass(frozen=True)
class _Timing:
    """How files are timed.

    Attributes:
        rounds: timed runs of each file in a pass.
        percent: percentile of a pass that counts.
        passes: passes at different times, whose median counts, since a slow phase of the machine is in few of them.
    """

    rounds: int
    percent: float
    passes: int


_PARTS, _WHOLES = _Timing(60, 5, 1), _Timing(40, 50, 3)
"""The time of a part is a small difference of two times and needs a low percentile; a whole model's time is the median.
The rounds of parts are for files of one block; files of several blocks have fewer, but at least ``_FEWEST_ROUNDS``."""

_FEWEST_ROUNDS = 12

_CHOICE = _Timing(40, 50, 5)
"""Of a model near the budget, with which everything is corrected."""

_RECIPES: dict[LatencyPrecision, tuple[Recipe, ...]] = {
    "fp32": (STATIC_ATTENTION,),
    "int8": (STATIC_ATTENTION, DYNAMIC),
}
"""Which recipe an int8 file will have is known when it is exported; a choice must be within the budget by either."""

_NEAR, _MOST_SHARE, _MARGIN, _MOST_ANCHORS = 0.965, 1.001, 1.01, 5
"""Shares of the budget that a choice may take, the upper one by how times are rounded; how much longer than measured
the corrected table takes a choice to be, since the next one may be off, too; and the number of choices."""


def profile(
    plan: ShapePlan,
    folder: Path,
    *,
    target: str = "cpu",
    precision: LatencyPrecision = "fp32",
    threads: int = 1,
    force: bool = False,
    progress: Progress = silent,
) -> tuple[LatencyTable, Path]:
    """Returns the latency table of an architecture on a target, and its file; measures the table if it is missing.

    Every time is written at once, so a stopped profile goes on where it was. All times are relative to those of the
    model itself, which is timed in turns with the other files, since a machine may be slower for minutes. Timings taken
    on a busy machine are repeated once; if that does not help, the table's notes report it.

    Args:
        plan: the architecture at its largest widths.
        folder: folder of the tables.
        target: where to measure.
        precision: precision of the files.
        threads: threads of the engine.
        force: measure anew.
        progress: called as files are timed.

    Raises:
        UnsupportedTargetError: the target cannot be profiled.
        MissingExtraError: a writer or engine of files is not installed.
        MeasurementError: the times make no sense.
        StorageError: the folder cannot be written.
    """
    time_together(target)
    conditions = _conditions(target, precision, threads)
    asked = {"format": _FORMAT, "conditions": encode(conditions), "plan": encode(plan)}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{target.replace(':', '-')}-{precision}-{digest}.json"
    times = path.with_suffix(".jsonl")
    if force:
        with storage_errors(folder):
            path.unlink(missing_ok=True)
            times.unlink(missing_ok=True)
    elif path.is_file():
        return LATENCY_DOCUMENT.read(path), path
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    parts = replace(_PARTS, rounds=max(_FEWEST_ROUNDS, _PARTS.rounds // part_depth(plan, precision)))
    _measure(plan, parts_to_time(plan, precision), parts, conditions, times, "profile", progress)
    _measure(plan, wholes_to_time(plan), _WHOLES, conditions, times, "whole models", progress)
    journal = read_profile_times(times, plan)
    table = fit_table(plan, conditions, {file: median(taken) for file, taken in journal.taken().items()})
    table = replace(table, notes=journal.notes)
    LATENCY_DOCUMENT.write(path, table)
    return table, path


def correct_by_choice(
    table: LatencyTable,
    choose: Callable[[LatencyTable], tuple[ShapePlan, int]],
    keep: Callable[[LatencyTable], None],
    progress: Progress = silent,
) -> LatencyTable:
    """Corrects a latency table where a budget of time needs it: by the time of a model of about that time.

    A model is chosen by the table and timed in turns with the whole one. Where it takes more than the budget, or less
    than 96.5 % of it, the table is anchored to both, and another model is chosen by the new table, five times at most.
    Widths that differ little may differ by several per cent in time, so if no choice was so near, the table is the one
    that chose the slowest model within the budget. If no choice was within it, the last table is taken and says so.

    Args:
        table: the table; the choices among its anchors are not repeated.
        choose: returns a model that is within the budget by a table, and the budget in nanoseconds of that table.
        keep: called with each table.
        progress: called as models are timed.

    Raises:
        PocketVitError: ``choose`` finds no model, or files cannot be timed.
    """
    if not table.anchors:
        times, _ = _times_of((table.baseline,), table)
        table = scaled(table, max(times)[0])
    within: list[tuple[float, LatencyTable]] = []
    over: list[float] = []
    used = 0.0
    while len(table.anchors) < _MOST_ANCHORS and not _NEAR <= used <= _MOST_SHARE:
        try:
            plan, limit = choose(table)
        except PlanError:
            if within:
                break
            raise
        if plan in {anchor.plan for anchor in table.anchors}:
            break
        progress("time a choice", len(table.anchors), _MOST_ANCHORS)
        times, disturbed = _times_of((table.baseline, plan), table)
        share = max(own / whole for whole, own in times)
        anchor = timed(table, plan, share)
        used = anchor.measured_ns / limit
        if used <= _MOST_SHARE:
            within.append((used, table))
        else:
            over.append(used)
        notes = table.notes
        if disturbed:
            notes = (*notes, f"A model near the budget was timed while the machine was disturbed. {disturbed}")
        table = replace(anchored(table, plan, _MARGIN * share), anchors=(*table.anchors, anchor), notes=notes)
        keep(table)
        progress("time a choice", len(table.anchors), _MOST_ANCHORS, f"takes {used:.1%} of the budget")
    if within:
        table = replace(max(within, key=lambda one: one[0])[1], anchors=table.anchors, notes=table.notes)
        keep(table)
    elif over:
        nearest = f"Of the models timed near the budget none is within it; the nearest takes {min(over):.1%} of it."
        table = replace(table, notes=(*table.notes, f"{nearest} The smaller model may take longer than was asked for."))
        keep(table)
    return table


def _times_of(plans: Sequence[ShapePlan], table: LatencyTable) -> tuple[tuple[tuple[float, ...], ...], str]:
    """Returns the times of whole models in turns, s, by recipe: of each the median of several processes' medians.

    Returns what disturbed the machine with them, even when it was timed once more; empty if nothing did.
    """
    time, passes, disturbed = time_together(table.target), [], ""
    files = [(recipe, plan) for recipe in _RECIPES[table.precision] for plan in plans]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}{TFLITE.suffix}" for number in range(len(files))]
        for path, (recipe, plan) in zip(paths, files, strict=True):
            with storage_errors(path):
                path.write_bytes(timing_bytes(plan, table.precision, recipe=recipe))
        for _ in range(_CHOICE.passes):
            samples = time(paths, threads=table.threads, rounds=_CHOICE.rounds)
            if samples.notes and not disturbed:
                samples = time(paths, threads=table.threads, rounds=_CHOICE.rounds)
                disturbed = " ".join(samples.notes)
            passes.append([percentile(own, _CHOICE.percent) for own in samples.seconds])
    medians = [median(own) for own in zip(*passes, strict=True)]
    return tuple(tuple(medians[start : start + len(plans)]) for start in range(0, len(medians), len(plans))), disturbed


def _conditions(target: str, precision: LatencyPrecision, threads: int) -> Conditions:
    if threads < 1:
        raise UnsupportedTargetError("threads must be at least 1", got=threads)
    machine = machine_state()
    version = machine.versions.get("ai-edge-litert", "")
    return Conditions(
        target, machine.cpu_model or machine.architecture or "unknown", "litert", version, threads, precision
    )


def _measure(
    plan: ShapePlan,
    files: Sequence[Timed],
    timing: _Timing,
    conditions: Conditions,
    journal: Path,
    stage: str,
    progress: Progress,
) -> None:
    """Times the files that the journal lacks, a few at a time, in an order that is independent of their widths."""
    known, missing = read_profile_times(journal, plan).count(), []
    for number in range(timing.passes):
        some = [file for file in files if known[file] <= number]
        missing += random.Random(number).sample(some, len(some))
    total, patient = timing.passes * len(files), True
    done = total - len(missing)
    for start in range(0, len(missing), _FILES_AT_ONCE):
        some = missing[start : start + _FILES_AT_ONCE]
        with tempfile.TemporaryDirectory() as folder:
            timed_files = [(plan, True), *some]
            paths = [Path(folder) / f"{number}{TFLITE.suffix}" for number in range(len(timed_files))]
            for path, (one, pooled_only) in zip(paths, timed_files, strict=True):
                with storage_errors(path):
                    path.write_bytes(timing_bytes(one, conditions.precision, pooled_only=pooled_only))
            timed = time_together(conditions.target)(paths, threads=conditions.threads, rounds=timing.rounds)
            if timed.notes and patient:
                progress(stage, done, total, f"measured again: {' '.join(timed.notes)}")
                timed = time_together(conditions.target)(paths, threads=conditions.threads, rounds=timing.rounds)
                patient = not timed.notes  # what lasts is not waited for
        reference, *seconds = (percentile(own, timing.percent) for own in timed.seconds)
        shared: dict[str, Any] = {"stage": stage, "reference_seconds": reference}
        shared |= {"notes": list(timed.notes)} if timed.notes else {}
        lines = (time_line(*file, value, shared) for file, value in zip(some, seconds, strict=True))
        TIMES_JOURNAL.append(journal, *lines)
        done += len(some)
        progress(stage, done, total)
