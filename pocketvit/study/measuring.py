"""Measuring the files of all cells in turns, one target at a time, while nothing else runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device_bench.documents.results import BENCH_DOCUMENT, BenchResult
from device_bench.targets.base import Device
from device_bench.targets.fleet_folder import read_failures
from device_bench.targets.inventory import read_inventory, resolve
from runtime import ArtifactError, Document

from .answers import FileAnswers
from .definition import Measure, Study


@dataclass(frozen=True)
class BenchCommands:
    """The ``bench`` commands that measured, by target."""

    commands: dict[str, tuple[str, ...]]


MEASURED_DOCUMENT = Document("pocketvit.study-measured", 1, BenchCommands)


def devices_of(study: Study) -> tuple[Device, ...]:
    """Returns the devices that a study measures on.

    Raises:
        UnsupportedTargetError: a target is not known.
        ArtifactError: the inventory cannot be read.
    """
    if not study.targets:
        return ()
    inventory = study.measure.inventory
    return resolve(study.targets, read_inventory(Path(inventory).expanduser() if inventory else None))


def wanted(study: Study, files: Sequence[FileAnswers]) -> tuple[FileAnswers, ...]:
    """Returns the files that the study measures."""
    formats = study.measure.formats
    return tuple(own for own in files if not formats or own.kind in formats)


def bench_words(measure: Measure, device: Device, paths: Sequence[Path], place: Path) -> tuple[str, ...]:
    """Returns the command that measures files on a device into a folder."""
    return (
        "bench",
        *map(str, paths),
        *("--target", device.label),
        *(("--inventory", measure.inventory) if measure.inventory else ()),
        *("--threads", str(measure.threads)),
        *("--seconds", f"{measure.seconds:g}"),
        *("--throughput", f"{measure.throughput:g}"),
        *(("--energy",) if measure.energy else ()),
        *(("--country", measure.country) if measure.country else ()),
        *("--json", str(place)),
    )


def results_of(place: Path, device: Device) -> tuple[BenchResult, ...]:
    """Returns the results of a device, one for each of its targets, without damaged ones."""
    found = []
    for path in sorted(place.glob("*.json")):
        try:
            result = BENCH_DOCUMENT.read(path)
        except ArtifactError:
            continue
        if result.target == device.label or result.target.startswith(f"{device.label}:"):
            found.append(result)
    return tuple(found)


def is_measured(
    place: Path, device: Device, files: Sequence[FileAnswers], words: Sequence[str], before: BenchCommands
) -> bool:
    """Whether exactly these files were measured on a device, or failed there, by exactly this command."""
    if before.commands.get(device.label) != tuple(words):
        return False
    digests = {own.file: own.sha256 for own in files}
    results = results_of(place, device)
    if not results:
        return any(failure.target == device.label for failure in read_failures(place))
    for result in results:
        if any(digests.get(own.file) != own.sha256 for own in result.files):
            return False
        if {*(own.file for own in result.files), *(own.file for own in result.failures)} != set(digests):
            return False
    return True


def complete(place: Path, device: Device) -> bool:
    """Whether nothing failed on a device."""
    results = results_of(place, device)
    return bool(results) and not any(result.failures for result in results)


def read_measured(path: Path) -> BenchCommands:
    """Reads which commands measured; none where there is no file.

    Raises:
        ArtifactError: the document is damaged.
    """
    return MEASURED_DOCUMENT.read_if_there(path) or BenchCommands({})
