"""The section of the report on where the time of each file goes."""

from __future__ import annotations

from pathlib import Path

from device_bench import format
from device_bench.documents.op_times import OpTimes, read_times
from device_bench.report.render.document import FigurePanel, PageBlock, Paragraph, Section, Subheading, blocks, bullets
from runtime import ArtifactError

from .pictures import times_drawing
from .summary import RunSummary
from .tradeoffs import short_names

_NOISE = 0.05
"""Share of the whole time that negative times of parts may add up to before a note says so."""


def times_section(summary: RunSummary, run: Path) -> tuple[Section | None, bool]:
    """Returns the times by part and by operator, and whether there are any; a damaged document costs its file alone.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    times, notes = _read(summary, run)
    if not times and not notes:
        return None, False
    names = short_names([own.file for own in times])
    pictures: list[PageBlock] = []
    for by, title in (("part", "By part of the model"), ("op type", "By type of operator")):
        drawn = times_drawing([own for own in times if own.by == by], names)
        if drawn:
            pictures += [Subheading(title), FigurePanel(drawn, "even")]
    note = "Of one image, files of one kind on one scale; shares are of the sum. Not part of the latencies above."
    how = [Paragraph(f"{', '.join(files)}: {text}.", "note after") for text, files in _methods(times)]
    return Section("Where the time goes", blocks(Paragraph(note), pictures, how, bullets(notes))), bool(times)


def _read(summary: RunSummary, run: Path) -> tuple[list[OpTimes], list[str]]:
    found: dict[str, OpTimes] = {}
    notes = []
    digests = {artifact.file: artifact.sha256 for artifact in summary.artifacts}
    for path in sorted((run / "bench" / "times").glob("*.json")):
        try:
            own = read_times(path)
        except ArtifactError as error:
            notes.append(f"Not shown: {error}")
            continue
        if own.file not in digests:
            continue
        if own.sha256 != digests[own.file]:
            notes.append(f"Not shown: bench/times/{path.name} is of an older {own.file}; time it again.")
            continue
        found[own.file] = own
        if own.noise_s > _NOISE * own.whole_s:
            below = format.seconds(own.noise_s)
            notes.append(f"{own.file} was timed on a busy machine: parts came out up to {below} below nothing.")
    return [found[file] for file in digests if file in found], notes


def _methods(times: list[OpTimes]) -> list[tuple[str, list[str]]]:
    """Returns each way of measuring with its files."""
    files: dict[str, list[str]] = {}
    for own in times:
        files.setdefault(f"{own.how}, {format.plural(own.threads, 'thread')}", []).append(own.file)
    return list(files.items())
