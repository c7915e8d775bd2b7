"""The gate and the comparison: gather facts of files, time them in turns, compare them with limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from device_bench.documents.facts import BASELINE_DOCUMENT, Baseline, Facts, baseline_of
from device_bench.documents.results import BENCH_DOCUMENT
from device_bench.gate.compare import ResultComparison, compare_results
from device_bench.gate.duel import Duel, Rules, duel
from device_bench.gate.judge import Gate, Limits, judge, read_limits
from device_bench.gate.render import gate_markdown, junit
from device_bench.machine.state import machine_state
from device_bench.metrics.startup import measure_starts
from device_bench.targets.base import Device
from device_bench.targets.emulated import CORES, CoreName, count_instructions
from runtime import (
    ArtifactError,
    MeasurementError,
    Progress,
    UnsupportedTargetError,
    manifest_path,
    read_artifact,
    sha256_of,
    silent,
    write_bytes,
)

CONFIG = Path("pocketvit.toml")
_FIRST_SECONDS = 10.0


def limits_of(config: Path | None) -> Limits:
    """Returns the limits in a file, by default in ``./pocketvit.toml`` if it exists, else the default limits.

    Raises:
        ArtifactError: the file is missing, or holds no limits.
    """
    if config is not None:
        return read_limits(config)
    return read_limits(CONFIG) if CONFIG.is_file() else Limits()


def check_usage(files: Sequence[Path], baseline: Path | None, update: bool) -> None:
    """Checks the arguments of the gate.

    Raises:
        ArtifactError: the arguments do not name what to compare.
    """
    if baseline is None and update:
        raise ArtifactError("--update-baseline needs a file to write", fix="Name the file to write with --baseline")
    if baseline is None and len(files) != 2:
        raise ArtifactError(
            "A gate compares a new file with a base",
            expected="BASE NEW, or --baseline FILE and the new files",
            got=f"{len(files)} files",
        )
    names = [file.name for file in files]
    if baseline is not None and len(set(names)) != len(names):
        raise ArtifactError("A baseline needs files with different names", got=", ".join(names))


def write_gates(gates: Sequence[Gate], junit_file: Path | None, markdown_file: Path | None) -> None:
    """Writes the results of gates as JUnit XML and as Markdown.

    Raises:
        StorageError: a file cannot be written.
    """
    if junit_file is not None:
        write_bytes(junit_file, junit(gates))
    if markdown_file is not None:
        write_bytes(markdown_file, gate_markdown(gates).encode())


def core_of(target: str | None) -> CoreName | None:
    """Returns the emulated core of a target such as ``emu:pi4``; None without a target.

    Raises:
        UnsupportedTargetError: the target is no emulated board.
    """
    if target is None:
        return None
    device = Device(target)
    if device.scheme != "emu" or device.place not in CORES:
        raise UnsupportedTargetError(
            "A gate counts instructions on an emulated board, or times both files on this machine",
            expected=f"{', '.join(f'emu:{core}' for core in CORES)}, or no --target",
            got=repr(target),
        )
    return CORES[device.place].name


def facts_of(file: Path, threads: int = 1, core: CoreName | None = None, progress: Progress = silent) -> Facts:
    """Returns the facts of a file that do not vary from run to run; a damaged or hostile file ends in an error.

    Args:
        file: a ``.onnx`` or ``.tflite`` file; accuracy and counts come from its manifest, where it has one.
        threads: threads of the engine while its memory is measured.
        core: core to count the instructions of a run on; None counts none.
        progress: called before each part.

    Raises:
        ArtifactError: the file is missing or damaged, or is not the one its manifest describes.
        MissingExtraError: its engine or reader is not installed.
        MeasurementError: it does not run, or there are no emulated boards here.
    """
    from export.inspect.inspection import inspect_file

    progress("facts", 0, 2, file.name)
    found = inspect_file(file, time=False)
    manifest = read_artifact(file) if manifest_path(file).is_file() else None
    progress("facts", 1, 2, file.name)
    starts = measure_starts(file, threads)
    if starts.failure is not None:
        raise MeasurementError(f"{file.name} cannot be measured", got=starts.failure)
    memory = starts.memory
    progress("facts", 2, 2, file.name)
    pieces, fallback = found.partitions.pieces, found.partitions.fallback
    peak, before = memory.peak_rss_bytes, memory.rss_before_bytes
    vectors = manifest.parity.vectors if manifest else None
    counted = count_instructions(core, [file], progress=progress) if core else {}
    return Facts(
        file=file.name,
        sha256=sha256_of(file),
        size_bytes=file.stat().st_size,
        precision=manifest.precision if manifest else None,
        params=manifest.params if manifest else None,
        macs=manifest.macs if manifest else None,
        operators=sum(row.count for row in found.contents.ops),
        partitions=None if pieces is None else len(pieces),
        fallbacks=None if fallback is None else sum(fallback.values()),
        memory_bytes=None if peak is None or before is None else max(0, peak - before),
        top1=manifest.parity.top1 if manifest else None,
        agreement=manifest.parity.top1_agreement if manifest else None,
        instructions=counted.get(file.name),
        cosine=vectors.cosine if vectors else None,
        whole_cosine=vectors.whole_cosine if vectors else None,
        whole_neighbours=vectors.whole_neighbours if vectors else None,
    )


def gate_files(
    base: Path,
    new: Path,
    limits: Limits,
    *,
    threads: int = 1,
    timed: bool = True,
    core: CoreName | None = None,
    progress: Progress = silent,
) -> Gate:
    """Compares a new file with a base file.

    Args:
        base: the file to compare with.
        new: the file to judge.
        limits: by how much the new file may be worse.
        threads: threads of the engines.
        timed: also time both files in turns, unless instructions are counted.
        core: core to count instructions on instead of timing.
        progress: called as the work advances.

    Raises:
        ArtifactError: a file is missing or damaged, or is not the one its manifest describes.
        MeasurementError: the process that timed them crashed or hung, or there are no emulated boards here.
    """
    facts = facts_of(base, threads, core, progress), facts_of(new, threads, core, progress)
    times = None
    if timed and core is None and limits.max_slowdown_percent is not None:
        times = duel(base, new, rules=limits.rules, threads=threads, progress=progress)
    return judge(*facts, limits, times, against="file" if core else None)


def gate_stored(
    baseline: Path,
    files: Sequence[Path],
    limits: Limits,
    *,
    threads: int = 1,
    core: CoreName | None = None,
    progress: Progress = silent,
) -> tuple[Gate, ...]:
    """Compares files with stored facts, without times.

    Raises:
        ArtifactError: the baseline or a file is missing or damaged.
        MeasurementError: the baseline does not know a file.
    """
    stored = BASELINE_DOCUMENT.read(baseline)
    known = [stored.of(file.name) for file in files]
    found = [facts_of(file, threads, core, progress) for file in files]
    return tuple(judge(base, new, limits) for base, new in zip(known, found, strict=True))


def update_baseline(
    path: Path,
    files: Sequence[Path],
    *,
    threads: int = 1,
    core: CoreName | None = None,
    progress: Progress = silent,
) -> Baseline:
    """Stores the facts of files in a baseline, whose facts of other files stay.

    Raises:
        ArtifactError: a file or the old baseline is damaged; the old baseline is as before.
        StorageError: the baseline cannot be written.
    """
    old = BASELINE_DOCUMENT.read(path).facts if path.is_file() else ()
    found = {facts.file: facts for facts in old}
    for file in files:
        found[file.name] = facts_of(file, threads, core, progress)
    baseline = baseline_of(tuple(found.values()), machine_state().cpu_model)
    BASELINE_DOCUMENT.write(path, baseline)
    return baseline


def compare_files(
    base: Path, new: Path, *, threads: int = 1, seconds: float = _FIRST_SECONDS, progress: Progress = silent
) -> tuple[Facts, Facts, Duel]:
    """Returns the facts of two files, and their times, taken in turns until one is proven slower.

    Args:
        base: one file.
        new: the other file.
        threads: threads of the engines.
        seconds: most time to look for a difference, s.
        progress: called as the work advances.

    Raises:
        ArtifactError: a file is missing or damaged.
        MeasurementError: the process that timed them crashed or hung.
    """
    facts = facts_of(base, threads, progress=progress), facts_of(new, threads, progress=progress)
    rules = Rules(max_slowdown=0.0, seconds=seconds)
    return *facts, duel(base, new, rules=rules, threads=threads, progress=progress)


def compare_stored(base: Path, new: Path) -> tuple[ResultComparison, ...]:
    """Compares two results of ``pocketvit bench``.

    Raises:
        ArtifactError: one is missing or damaged, or they have no file in common.
    """
    found = compare_results(BENCH_DOCUMENT.read(base), BENCH_DOCUMENT.read(new))
    if not found:
        raise ArtifactError(
            f"{base} and {new} have no file in common", fix="Compare results of files of the same names"
        )
    return found
