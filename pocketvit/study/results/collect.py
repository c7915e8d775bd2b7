"""A study as one table: for each method, model, data and budget every file, over all seeds; and what failed."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from device_bench.documents.figures import EnergyTier
from device_bench.documents.results import BENCH_DOCUMENT, BenchResult, FileResult
from device_bench.energy.carbon import find_grid
from device_bench.metrics import METRICS
from device_bench.metrics.base import Measured, Number
from device_bench.targets.fleet_folder import read_failures
from pocketvit.study.answers import Answers, FileAnswers, read_answers
from pocketvit.study.cells import StudyCell
from pocketvit.study.definition import Measure, Study
from pocketvit.study.folder import CELL_DOCUMENT, StudyFolder
from pocketvit.study.measuring import devices_of, read_measured
from pocketvit.study.work.attempts import worked
from pocketvit.study.work.process import WorkStep
from runtime import METRICS_DOCUMENT, ArtifactError, ModelMetrics

from .significance import AccuracyComparison, Contender, compare
from .spread import Spread, spread

_UNKNOWN = "It is not known."
_UNLABELLED = "The files have no labels to be held against."
_NO_LOG = "The log of the model that it starts from is gone."
_COMPARED = ("fp32", "onnx")
"""Files whose answers are compared, the first that there is; where there is none, the first of any kind."""


@dataclass(frozen=True)
class OnTarget:
    """One kind of file on one target, over seeds.

    Attributes:
        target: name of the target.
        emulated: whether the target is emulated, so that it has no time.
        figures: averages of the metrics' numbers, by ``Number.key``.
        energy_tier: how the energy is known; None where it was not requested or differs between seeds.
    """

    target: str
    emulated: bool
    figures: dict[str, Spread]
    energy_tier: EnergyTier | None


@dataclass(frozen=True)
class StudyRow:
    """One kind of file of one method on one model, dataset and budget.

    Attributes:
        method: name of the method.
        model: name of the model.
        data: dataset as ``--data`` takes it.
        budget: budget as ``--budget`` takes it; empty for distillation.
        kind: kind of the file.
        seeds: that were done.
        top1: accuracy on the test images, 0..1.
        images: test images of each seed.
        params: parameters of the model.
        flops: FLOPs of one image, two for each multiply-accumulate.
        size_bytes: size of the file.
        gzip_bytes: gzip size of the file packed by gzip.
        training_s: seconds of work until the model was done; the training of a shared model counts in full.
        confusion: test images of all seeds: (true class, answer, images) wherever there are any; empty where not known.
        targets: figures on each target.
        commands: that made it, by seed.
    """

    method: str
    model: str
    data: str
    budget: str
    kind: str
    seeds: tuple[int, ...]
    top1: Spread
    images: Spread
    params: Spread
    flops: Spread
    size_bytes: Spread
    gzip_bytes: Spread
    training_s: Spread
    confusion: tuple[tuple[int, int, int], ...]
    targets: tuple[OnTarget, ...]
    commands: tuple[str, ...]

    @property
    def label(self) -> str:
        """The method, with its budget where it has one."""
        return f"{self.method} {self.budget}".strip()

    def on(self, target: str) -> OnTarget | None:
        """Returns the figures on ``target``, or None."""
        return next((own for own in self.targets if own.target == target), None)


@dataclass(frozen=True)
class Failed:
    """A cell that failed, or is not done yet.

    Attributes:
        cell: name of the cell.
        error: reason of the failure.
        where: the machine that it failed on; empty where it was not begun.
        command: that was to make it.
    """

    cell: str
    error: str
    where: str
    command: str


@dataclass(frozen=True)
class StudyResult:
    """A study, read from its folder.

    Attributes:
        name: name of the study.
        seeds: asked for.
        threads: threads of each cell.
        alpha: alpha of the tests.
        reference: that all are compared with; empty where all pairs are.
        grid: grid that CO2 is computed with.
        rows: the table.
        failed: cells that are not in it, and why.
        unmeasured: targets and files without a measurement, and why.
        comparisons: comparisons of accuracy.
        class_names: names of each dataset.
        measured_by: the command that measured, by target.
        notes: remarks on the measurements.
    """

    name: str
    seeds: tuple[int, ...]
    threads: int
    alpha: float
    reference: str
    grid: str
    rows: tuple[StudyRow, ...]
    failed: tuple[Failed, ...]
    unmeasured: tuple[tuple[str, str], ...]
    comparisons: tuple[AccuracyComparison, ...]
    class_names: dict[str, tuple[str, ...]]
    measured_by: dict[str, str]
    notes: tuple[str, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Where anything was measured."""
        return tuple(dict.fromkeys(own.target for row in self.rows for own in row.targets))


@dataclass(frozen=True)
class _Done:
    """A finished cell, read."""

    cell: StudyCell
    metrics: ModelMetrics
    answers: Answers
    training_s: float | None
    command: str

    def file(self, kind: str) -> FileAnswers | None:
        return next((own for own in self.answers.files if own.kind == kind), None)


def collect(study: Study, folder: StudyFolder, cells: Sequence[StudyCell]) -> StudyResult:
    """Reads the folder of a study, however far it has come.

    Raises:
        ArtifactError: a document in it is damaged.
    """
    done, failed = [], []
    for cell in cells:
        state = CELL_DOCUMENT.read_if_there(folder.state(cell.name))
        if state is not None and state.outcome == "done":
            done.append(_read(cell, folder, state.baseline))
        else:
            broken = state is not None and state.outcome == "failed"
            error = (state.error or "It failed.") if state and broken else "It is not done yet."
            failed.append(Failed(cell.name, error, state.where if state else "", command_of(cell, folder)))
    benches, damaged = _benches(study, folder)
    groups: dict[tuple[str, str, str, str], list[_Done]] = {}
    for own in done:
        groups.setdefault(own.cell.group, []).append(own)
    rows = tuple(row for group in groups.values() for row in _rows(study, group, benches))
    commands = {
        target: shlex.join(("pocketvit", *words)) for target, words in read_measured(folder.measured).commands.items()
    }
    return StudyResult(
        name=study.name,
        seeds=study.seeds,
        threads=study.threads,
        alpha=study.alpha,
        reference=study.reference,
        grid=_grid(study.measure),
        rows=rows,
        failed=tuple(failed),
        unmeasured=(*_unmeasured(folder, benches), *damaged),
        comparisons=_comparisons(study, groups),
        class_names={own.cell.data: own.answers.class_names for own in done},
        measured_by={device.label: commands[device.label] for device in devices_of(study) if device.label in commands},
        notes=tuple(note for bench in benches for note in bench.notes),
    )


def command_of(cell: StudyCell, folder: StudyFolder) -> str:
    """Returns the commands that make a cell from nothing."""
    run = folder.run(cell.name)
    steps = (WorkStep(cell.command, cell.words), WorkStep("export", cell.export_words))
    return " && ".join(shlex.join(("pocketvit", *step.line(run))) for step in steps)


def _read(cell: StudyCell, folder: StudyFolder, baseline: str) -> _Done:
    run = folder.run(cell.name)
    metrics = METRICS_DOCUMENT.read(run / "sliced" / "metrics.json")
    training = _training_s(cell, run, folder.run(baseline) if baseline else None)
    return _Done(cell, metrics, read_answers(run), training, command_of(cell, folder))


def _training_s(cell: StudyCell, run: Path, baseline: Path | None) -> float | None:
    """Returns the seconds that made a cell's model, or None where the log of the model it was given is gone."""
    own = worked(run)
    # a taught student's own training starts from nothing, whatever it is compared with
    if baseline is None or cell.lesson is not None or own.fine_tune_s:
        return own.training_s
    return own.training_s + worked(baseline).fine_tune_s if (baseline / "log.jsonl").is_file() else None


def _benches(study: Study, folder: StudyFolder) -> tuple[list[BenchResult], tuple[tuple[str, str], ...]]:
    """Returns the results of the study's targets in their order, and documents that cannot be read."""
    found, damaged = [], []
    for path in sorted(folder.bench.glob("*.json")):
        try:
            found.append(BENCH_DOCUMENT.read(path))
        except ArtifactError as error:
            damaged.append((path.name, str(error)))
    labels = [device.label for device in devices_of(study)]
    own = [(labels.index(label), bench) for bench in found for label in labels if _is_of(bench.target, label)]
    return [bench for _, bench in sorted(own, key=lambda pair: pair[0])], tuple(damaged)


def _is_of(target: str, label: str) -> bool:
    return target == label or target.startswith(f"{label}:")


def _unmeasured(folder: StudyFolder, benches: Iterable[BenchResult]) -> tuple[tuple[str, str], ...]:
    gone = [(failure.target, failure.what) for failure in read_failures(folder.bench)]
    files = [(f"{own.file} on {bench.target}", own.what) for bench in benches for own in bench.failures]
    return (*gone, *files)


def _grid(measure: Measure) -> str:
    if measure.grams_per_kwh is not None:
        return f"{measure.grams_per_kwh:g} g/kWh, as the study's file says"
    if measure.country:
        found = find_grid(measure.country)
        if found.grams_per_kwh is not None:
            return f"{found.grams_per_kwh:g} g/kWh, the mean of the grid of {found.country}"
    return ""


def _rows(study: Study, group: Sequence[_Done], benches: Sequence[BenchResult]) -> Iterable[StudyRow]:
    kinds = list(dict.fromkeys(own.kind for done in group for own in done.answers.files))
    for kind in kinds:
        files = [(done, own) for done in group if (own := done.file(kind)) is not None]
        cell = files[0][0].cell

        yield StudyRow(
            method=cell.method,
            model=cell.model,
            data=cell.data,
            budget=cell.budget,
            kind=kind,
            seeds=tuple(done.cell.seed for done, _ in files),
            top1=spread((own.top1 for _, own in files), _UNLABELLED),
            images=spread((len(done.answers.labels) or None for done, _ in files), _UNLABELLED),
            params=spread((done.metrics.params for done, _ in files), _UNKNOWN),
            flops=spread((2 * done.metrics.macs for done, _ in files), _UNKNOWN),
            size_bytes=spread((own.size_bytes for _, own in files), _UNKNOWN),
            gzip_bytes=spread((own.gzip_bytes for _, own in files), _UNKNOWN),
            training_s=spread((done.training_s for done, _ in files), _NO_LOG),
            confusion=_confusion([own for _, own in files]),
            targets=tuple(_on(study.measure, bench, [own for _, own in files]) for bench in benches),
            commands=tuple(done.command for done, _ in files),
        )


def _confusion(files: Sequence[FileAnswers]) -> tuple[tuple[int, int, int], ...]:
    total: Counter[tuple[int, int]] = Counter()
    for own in files:
        for true, answer, images in own.accuracy.counts if own.accuracy is not None else ():
            total[true, answer] += images
    return tuple((true, answer, images) for (true, answer), images in sorted(total.items()))


def _on(measure: Measure, bench: BenchResult, files: Sequence[FileAnswers]) -> OnTarget:
    results = [_same(bench, own) for own in files]
    measured = [Measured(bench, _with_grid(measure, own)) if own else None for own in results]
    why = "An emulated target has no time." if bench.emulated else "It was not measured."

    def average(number: Number) -> Spread:
        reasons = [number.reason(own) for own in measured if own]
        values = (number.value(own) if own else None for own in measured)
        return spread(values, next(filter(None, reasons), why))

    tiers = {own.energy.tier for own in results if own and own.energy}
    return OnTarget(
        target=bench.target,
        emulated=bench.emulated,
        figures={number.key: average(number) for metric in METRICS.values() for number in metric.averaged},
        energy_tier=tiers.pop() if len(tiers) == 1 else None,
    )


def _with_grid(measure: Measure, result: FileResult) -> FileResult:
    """Returns a result whose CO2 is that of the study's own grid, where the study names one."""
    energy = result.energy
    if energy is None or energy.tier == "unavailable" or measure.grams_per_kwh is None:
        return result
    return replace(result, energy=replace(energy, grams_per_kwh=measure.grams_per_kwh, carbon_reason=None))


def _same(bench: BenchResult, own: FileAnswers) -> FileResult | None:
    """Returns the result of the file with the same bytes, or None."""
    result = bench.of(own.file)
    return result if result is not None and result.sha256 == own.sha256 else None


def _comparisons(
    study: Study, groups: Mapping[tuple[str, str, str, str], Sequence[_Done]]
) -> tuple[AccuracyComparison, ...]:
    found: list[AccuracyComparison] = []
    families = dict.fromkeys((model, data) for _, model, data, _ in groups)
    for model, data in families:
        own = {key: group for key, group in groups.items() if key[1:3] == (model, data)}
        kind = _compared([file.kind for group in own.values() for done in group for file in done.answers.files])
        contenders = {key: _contender(key, group, kind) for key, group in own.items()}
        pairs = [(contenders[one], contenders[other]) for one, other in _pairs(study, list(contenders))]
        found += compare(model, data, kind, pairs, study.alpha)
    return tuple(found)


def _compared(kinds: Sequence[str]) -> str:
    return next((kind for kind in _COMPARED if kind in kinds), kinds[0] if kinds else "")


def _contender(key: tuple[str, str, str, str], group: Sequence[_Done], kind: str) -> Contender:
    top1, right = {}, {}
    for done in group:
        file = done.file(kind)
        if file is None or file.top1 is None:
            continue
        top1[done.cell.seed] = file.top1
        if file.accuracy is not None and len(file.accuracy.answers) == len(done.answers.labels):
            right[done.cell.seed] = tuple(map(int.__eq__, file.accuracy.answers, done.answers.labels))
    return Contender(f"{key[0]} {key[3]}".strip(), top1, right)


def _pairs(
    study: Study, keys: Sequence[tuple[str, str, str, str]]
) -> Iterable[tuple[tuple[str, str, str, str], tuple[str, str, str, str]]]:
    """Returns the pairs to compare: all, or every method with the reference of the same budget."""
    if not study.reference:
        return combinations(keys, 2)
    references = [key for key in keys if key[0] == study.reference]
    return [
        (reference, key)
        for key in keys
        if key[0] != study.reference
        for reference in references
        if len(references) == 1 or reference[3] == key[3]
    ]
