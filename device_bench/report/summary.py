"""Reads a run folder into one table: the baseline, the sliced model, and every exported file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from device_bench.documents.figures import ARITHMETIC, Failure
from device_bench.documents.results import BENCH_DOCUMENT, BenchResult, FileResult
from device_bench.metrics.base import Measured
from device_bench.targets.fleet import DeviceFailure
from device_bench.targets.fleet_folder import read_failures
from runtime import (
    LATENCY_DOCUMENT,
    METRICS_DOCUMENT,
    PLAN_DOCUMENT,
    Artifact,
    ArtifactError,
    LatencyTable,
    RunFolderError,
    ShapePlan,
    latency_of,
    macs,
    params,
    read_artifact,
)
from runtime.formats import model_files
from runtime.storage.journals import RUN_LOG, STEPS_JOURNAL

from .gain import Gain, gains
from .rows import Model, SummaryRow, Timing

REFUSED_BEFORE = "it did not pass its check; the version that made it kept no reason"
"""The reason for a refused file whose manifest has none."""

_FORMATS = ("tflite", "onnx", "torch")
_PRECISIONS = tuple(ARITHMETIC)


_MADE_WITH = {"data": "data", "search": "search", "for": "made_for"}
"""Names in a summary, and the settings of ``run.json`` that they come from."""


@dataclass(frozen=True)
class RunSummary:
    """The content of a run folder.

    Attributes:
        name: name of the run.
        baseline: the unpruned model.
        sliced: the pruned model.
        artifacts: manifests of the exported files, in the order of the rows.
        benches: benches by name of their document, such as ``cpu.json``.
        rows: the table.
        notes: remarks on missing figures, and on the speed-up that pruning alone gave.
        gains: speed-ups that pruning alone gave, for each target and each sliced file with a baseline counterpart.
        unmeasured: targets on which the last bench measured nothing.
        refused: manifests of the files that failed their check, each with the reason.
        made_with: the settings that name what made the model: ``data``, ``search``, ``importance`` and ``for`` (the
            processors of int8). Empty for a folder without ``run.json``.
    """

    name: str
    baseline: Model
    sliced: Model
    artifacts: tuple[Artifact, ...]
    benches: dict[str, BenchResult]
    rows: tuple[SummaryRow, ...]
    notes: tuple[str, ...]
    gains: tuple[Gain, ...] = ()
    unmeasured: tuple[DeviceFailure, ...] = ()
    refused: tuple[Artifact, ...] = ()
    made_with: dict[str, str] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets of all rows: ``cpu`` first, then those with times, then the emulated."""
        found = {(timing.emulated, timing.target) for row in self.rows for timing in row.timings}
        return tuple(target for _, target in sorted(found, key=lambda own: (own[1] != "cpu", *own)))

    def row(self, name: str) -> SummaryRow | None:
        """Returns the row of that name, or none."""
        return next((row for row in self.rows if row.name == name), None)

    def bench_on(self, target: str) -> tuple[str, BenchResult]:
        """Returns the bench on ``target`` with the name of its document.

        Raises:
            KeyError: nothing was measured there.
        """
        found = next((pair for pair in self.benches.items() if pair[1].target == target), None)
        if found is None:
            raise KeyError(target)
        return found

    def measured(self, row: SummaryRow, target: str) -> Measured | None:
        """Returns the figures of a row's file on ``target``, or None if its bytes were not measured there."""
        if row.on(target) is None:
            return None
        _, bench = self.bench_on(target)
        result = bench.of(row.name)
        return Measured(bench, result, row.top1, row.top1_images) if result else None

    def measured_on(self, target: str) -> tuple[Measured, ...]:
        """Returns the figures of every file on ``target``, in the order of the rows."""
        return tuple(found for row in self.rows if (found := self.measured(row, target)))

    @property
    def failures(self) -> tuple[tuple[str, Failure], ...]:
        """Each file that could not be measured, with the target it was to be measured on."""
        return tuple((bench.target, failure) for bench in self.benches.values() for failure in bench.failures)


def summarise(run: Path | str) -> RunSummary:
    """Reads a run folder, however far it has come.

    Args:
        run: a folder with ``baseline``, ``sliced``, ``artifacts`` and ``bench``, some of which may be absent.

    Raises:
        RunFolderError: ``run`` is no run folder, or two benches are of one target.
        ArtifactError: a document or file in it is damaged.
    """
    run = Path(run)
    _check_run(run)
    baseline, sliced = _model(run / "baseline"), _model(run / "sliced")
    artifacts, refused = _artifacts(run / "artifacts"), _artifacts(run / "artifacts" / "rejected")
    benches = {path.name: BENCH_DOCUMENT.read(path) for path in sorted((run / "bench").glob("*.json"))}
    targets = [bench.target for bench in benches.values()]
    if len(set(targets)) != len(targets):
        raise RunFolderError(f"{run / 'bench'} has two results for one target", got=", ".join(targets))
    notes: list[str] = []
    models = tuple(_model_row(name, model) for name, model in (("baseline", baseline), ("sliced", sliced)))
    reason = next((own.metrics.top1_reason for own in (sliced, baseline) if own.metrics), _shared_reason(artifacts))
    if reason is not None:
        notes.append(f"There is no top-1: {reason.rstrip('.')}.")
    files = tuple(_file_row(artifact, benches, notes, reason is None) for artifact in artifacts)
    table = LATENCY_DOCUMENT.read(path) if (path := run / "search" / "latency.json").exists() else None
    found = gains(artifacts, benches.values(), _predicted(table, baseline.plan, sliced.plan))
    notes += _warnings(run / "log.jsonl")
    notes += [*(table.notes if table else ()), *(gain.sentence for gain in found)]
    name = run.resolve().name
    gone = read_failures(run / "bench")
    return RunSummary(
        name, baseline, sliced, artifacts, benches, models + files, tuple(notes), found, gone, refused, _made_with(run)
    )


def _made_with(run: Path) -> dict[str, str]:
    """Returns the settings in ``run.json`` that name what made the model."""
    path = run / "run.json"
    if not path.is_file() or (run / "distill.json").is_file():  # a student is taught, not searched
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        found = {name: settings.get(key) for name, key in _MADE_WITH.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged", got=error) from error
    with suppress(ArtifactError, KeyError):  # not every method ranks units, so the journal says it
        header, _ = STEPS_JOURNAL.read(run / "search" / "journal.jsonl")
        found["importance"] = header["settings"]["importance"]
    return {name: value for name, value in found.items() if isinstance(value, str) and value}


def _warnings(log: Path) -> list[str]:
    """Returns the warnings of the run, such as a checkpoint near chance, each once."""
    found: dict[str, None] = {}
    with suppress(ArtifactError):
        for _, event in RUN_LOG.read(log)[1]:
            if event.get("event") == "warning" and isinstance(event.get("text"), str):
                found[event["text"]] = None
    return list(found)


def _predicted(table: LatencyTable | None, before: ShapePlan | None, after: ShapePlan | None) -> dict[str, float]:
    """Returns, by precision, the speed-up that the run's latency table predicts, where it has one."""
    if before is None or after is None or table is None:
        return {}
    latency = latency_of(table)
    return {table.precision: latency(before) / latency(after)}


def _check_run(run: Path) -> None:
    expected = "a folder with baseline, sliced or artifacts in it"
    if not run.is_dir():
        raise RunFolderError(f"The run folder {run} does not exist", expected=expected)
    if not any((run / name).is_dir() for name in ("baseline", "sliced", "artifacts")):
        raise RunFolderError(f"{run} is no run folder", expected=expected)


def _model(folder: Path) -> Model:
    plan, metrics = folder / "plan.json", folder / "metrics.json"
    return Model(
        PLAN_DOCUMENT.read(plan) if plan.exists() else None,
        METRICS_DOCUMENT.read(metrics) if metrics.exists() else None,
    )


def _artifacts(folder: Path) -> tuple[Artifact, ...]:
    return tuple(sorted((read_artifact(file) for file in model_files(folder)), key=_order))


def _order(artifact: Artifact) -> tuple[bool, int, int, str]:
    """Sorts baseline files first, then by format, then from float to fully integer."""

    def place(names: tuple[str, ...], name: str) -> int:
        return names.index(name) if name in names else len(names)

    baseline = artifact.file.startswith("baseline.")
    return not baseline, place(_FORMATS, artifact.format), place(_PRECISIONS, artifact.precision), artifact.file


def _model_row(name: str, model: Model) -> SummaryRow:
    plan, metrics = model.plan, model.metrics
    whole = metrics.test_whole if metrics else None
    return SummaryRow(
        name=name,
        precision=None,
        params=metrics.params if metrics else params(plan) if plan else None,
        macs=metrics.macs if metrics else macs(plan) if plan else None,
        size_bytes=metrics.size_bytes if metrics else None,
        top1=metrics.top1 if metrics else None,
        top1_images=metrics.test_images if metrics and metrics.top1 is not None else None,
        agreement=None,
        whole_agreement=whole.agreement if whole else None,
        whole_cosine=whole.cosine if whole else None,
        whole_images=whole.images if whole else None,
        whole_neighbours=whole.neighbours if whole else None,
        own_neighbours=whole.own_neighbours if whole else None,
    )


def _file_row(artifact: Artifact, benches: dict[str, BenchResult], notes: list[str], says_why: bool) -> SummaryRow:
    """Returns the row of a file, and adds what is missing to ``notes``: why it has no top-1 only if ``says_why``."""
    timings = []
    for document, bench in benches.items():
        result = bench.of(artifact.file)
        if result is None:
            continue
        if result.sha256 != artifact.sha256:
            notes.append(f"{document} timed an older {artifact.file}, so its latency is left out: bench again.")
            continue
        timings.append(_timing(bench, result))
        if result.memory.peak_rss_bytes is None and result.memory.reason and not bench.emulated:
            notes.append(f"{artifact.file} has no peak memory on {bench.target}: {result.memory.reason.rstrip('.')}.")
    parity, vectors = artifact.parity, artifact.parity.vectors
    if artifact.unproven and artifact.unproven not in notes:
        notes.append(artifact.unproven)
    if parity.gpu is not None and parity.gpu.wrong:
        notes.append(f"{artifact.file} IS WRONG ON GPUs, and is for the CPU alone. {parity.gpu.wrong}")
    if parity.top1 is None and parity.top1_reason and says_why:
        notes.append(f"{artifact.file} has no top-1: {parity.top1_reason.rstrip('.')}.")
    return SummaryRow(
        name=artifact.file,
        precision=artifact.precision,
        params=artifact.params,
        macs=artifact.macs,
        size_bytes=artifact.size_bytes,
        top1=parity.top1,
        top1_images=None if parity.top1 is None else parity.images,
        agreement=parity.top1_agreement,
        timings=tuple(timings),
        gzip_bytes=artifact.gzip_bytes,
        whole_cosine=vectors.whole_cosine if vectors else None,
        whole_images=parity.images if vectors and vectors.whole_cosine is not None else None,
        whole_neighbours=vectors.whole_neighbours if vectors else None,
        own_neighbours=vectors.own_neighbours if vectors else None,
        cosine=vectors.cosine if vectors else None,
    )


def _shared_reason(artifacts: Sequence[Artifact]) -> str | None:
    """Returns why no file has a top-1, if that is the same for all and there are several."""
    reasons = {own.parity.top1_reason if own.parity.top1 is None else None for own in artifacts}
    return reasons.pop() if len(artifacts) > 1 and len(reasons) == 1 else None


def _timing(bench: BenchResult, result: FileResult) -> Timing:
    energy, accuracy, startup = result.energy, result.accuracy, result.startup
    measured = Measured(bench, result)
    return Timing(
        target=bench.target,
        threads=result.threads,
        engine=f"{result.engine} {result.engine_version}",
        batch=result.batch,
        median_s=measured.median_s,
        p90_s=measured.p90_s,
        peak_rss_bytes=result.memory.peak_rss_bytes,
        memory_reason=result.memory.reason,
        speedup=measured.speedup,
        load_s=median(startup.load_s) if startup else None,
        first_run_s=median(startup.first_run_s) if startup else None,
        throughput=result.best_throughput,
        gflops_per_s=result.gflops_per_s,
        peak_share=measured.peak_share,
        energy_tier=energy.tier if energy else None,
        joules_per_image=energy.joules_per_image if energy else None,
        grams_co2_per_image=energy.grams_co2_per_image if energy else None,
        top1=accuracy.top1 if accuracy else None,
        top1_images=accuracy.images if accuracy else None,
        emulated=bench.emulated,
        instructions=result.instructions,
        metrics=result.metrics,
    )
